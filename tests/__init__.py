import os
import sys

# where the environment asks Python to keep nothing compiled, each worker of xdist and each process
# that a test starts, of which there are hundreds, would compile all that it imports
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False
