# %% [markdown]
# # Record a GPU
#
# This notebook measures sparse against dense products, and networks with fewer channels, on a GPU:
# your own, or one that Colab, Kaggle or Lightning lends you. It takes three minutes of your time
# and about a quarter of an hour of the GPU's. At the end you have two files, which lessons 05 and
# 06 show beside the recordings of the course, and the break-even sparsities of your GPU beside
# published ones.
#
# It needs NumPy, torch and torchvision, which these platforms have. Nothing is installed, and no
# file of yours is overwritten. It is stored without outputs: they would not be those of your GPU.
#
# Switch the GPU on first.
#
# - **Colab**: Runtime, Change runtime type, T4 GPU, Save.
# - **Kaggle**: Settings, Accelerator, GPU T4 x2 (torch no longer supports the P100 there), and
#   Settings, Internet on. Kaggle asks for a verified phone number.
# - **Lightning**: switch the Studio to a machine with a GPU, such as a T4.
# - **Any Jupyter**: an NVIDIA GPU, and a torch that was built for CUDA.

# %% [markdown]
# **1. Settings.** `REPOSITORY` is the address that you would give to `git clone`. Leave it empty if
# this notebook is inside a clone, or if you uploaded the course as a zip file.

# %%
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

REPOSITORY = ""  # for example "https://HOST/OWNER/pruning.git"
DEVICE = os.environ.get("GPU_RECORDER_DEVICE", "cuda")
MINUTES = float(os.environ.get("GPU_RECORDER_MINUTES", "8"))  # at most, for each recording


# %%
class Stop(Exception):
    """Ends a cell with a message, without a traceback."""

    def _render_traceback_(self):
        return [str(self)]


if sys.version_info.minor < 11:
    raise Stop("The course needs Python 3.11 or newer; this is " + sys.version.split()[0])

# %% [markdown]
# **2. Fetch the course**, a download of about 100 MB, unless it is here already: around this
# notebook, in the folder `pruning`, or among the inputs of a Kaggle notebook.

# %%
FILE = "course_lib/teaching/hosted.py"


def course():
    """The folder of the course, or None if it is not here yet."""
    here = Path.cwd().resolve()
    inputs = [file.parents[2] for file in Path("/kaggle/input").rglob(FILE)]
    places = [here, *here.parents, here / "pruning", *inputs]
    return next((place for place in places if (place / FILE).is_file()), None)


# %%
def fetch(part=Path("pruning.part")):
    """Clone REPOSITORY, or unpack the zip file, into the folder "pruning": whole, or not at all."""
    shutil.rmtree(part, ignore_errors=True)  # left by a fetch that was interrupted
    if REPOSITORY:
        subprocess.run(["git", "clone", "--quiet", "--depth", "1", REPOSITORY, str(part)])
    for archive in [] if REPOSITORY else Path.cwd().glob("*.zip"):
        if any(name.endswith(FILE) for name in zipfile.ZipFile(archive).namelist()):
            shutil.unpack_archive(archive, part)
    for file in part.rglob(FILE):
        file.parents[2].rename("pruning")
        return


# %%
if course() is None:
    fetch()
if course() is None:
    raise Stop(
        f"The course could not be cloned from {REPOSITORY!r}: check the address. On Kaggle, "
        "Settings, Internet must be on."
        if REPOSITORY
        else "The course is not here. Set REPOSITORY above to its address, or upload a zip file of "
        "the course: on Colab and Lightning into the folder of this notebook (Files), on Kaggle "
        "as an input. Then run the cells again, from the first."
    )
sys.path.insert(0, str(course()))
print("The course is in", course())

# %% [markdown]
# **3. Check the machine**: is there a GPU, and can this version of torch use it?

# %%
from course_lib.teaching import gpu_break_evens, hosted

print(hosted.ready(DEVICE))
FOLDER = hosted.output_folder()

# %% [markdown]
# **4. Record the products**, 8 minutes: every sparse format of torch against the dense product,
# large matrices first. Every measurement is stored at once. If the session ends or you stop the
# cell, run it again: it continues.

# %%
products = hosted.record("sparse_vs_dense", device=DEVICE, minutes=MINUTES, folder=FOLDER)

# %% [markdown]
# **5. Record the networks**, a few minutes: layers and networks with fewer channels.

# %%
networks = hosted.record(
    "structured_speedup", "resnet18", device=DEVICE, minutes=MINUTES, folder=FOLDER
)

# %% [markdown]
# **6. Check the files**: all fields, and how much of the plan was measured.

# %%
for path in (products, networks):
    print(hosted.examined(path))

# %% [markdown]
# **7. Take them home.** A hosted machine forgets its files when it stops.

# %%
print(hosted.hand_over([products, networks], FOLDER))

# %% [markdown]
# **8. Your break-even sparsities**: from how many zeros on is the sparse product faster than the
# dense one? *Recorded* on this machine; *computed* from the datasheet of its GPU, if the course has
# it, as the middle of two estimates (caches serve every input for free, or not at all);
# *published* by others on their GPUs, with the name and the year. Each is a median, with its range
# over shapes.

# %%
found = gpu_break_evens.compared(hosted.read(products))
print(gpu_break_evens.table(found))

# %% [markdown]
# The same as a figure. Blue: single weights are zero. Orange: whole blocks are.

# %%
gpu_break_evens.show(found)

# %% [markdown]
# Compare one vector with many columns, and many columns in float16 with the same in float32: why
# are they so far apart? Lesson 05 explains it. Open it at home, with your files in place.
