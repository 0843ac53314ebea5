"""A folder of images in, a folder of pictures out: one at a time, resumable, with a manifest.

session = Session()
request = Request(prompt="", controls=[ControlRequest(ref="canny", photo=EMPTY)])
tasks = list_tasks({0: Path("photos")}, request, prompt="a house")
for result in draw_folder(session, request, tasks, Path("drawn")):
    print(result.state, result.task.input, result.error)
"""

from tether.sampling.folders.draw import EMPTY, Result, draw_folder
from tether.sampling.folders.manifest import MANIFEST, Entry, Manifest
from tether.sampling.folders.tasks import Task, list_tasks, seed_of

__all__ = ["EMPTY", "MANIFEST", "Entry", "Manifest", "Result", "Task", "draw_folder", "list_tasks", "seed_of"]
