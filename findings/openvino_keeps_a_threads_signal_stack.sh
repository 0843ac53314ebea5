#!/usr/bin/env bash
# Surprise: OpenVINO's CPU plugin changes the alternate signal stack of the thread that loads it, and gives it back only
# when the plugin is released in that same thread.
#
# The alternate stack (sigaltstack(2)) belongs to a thread. Python's handlers for signals ask for it, and
# `faulthandler.enable()` sets one up for the main thread. The first use of the device "CPU" replaces it by the plugin's
# own, without a word in the documentation of `Core`. When the last reference to the core is dropped in the thread that
# loaded the plugin, the stack before is set again. When it is dropped in another thread, which garbage collection alone
# can bring about, the loading thread goes on with the plugin's stack. A program that handles signals has to keep one
# core as long as it lives.
#
# Versions: OpenVINO 2026.4.1, Linux on x86-64. Seen, the alternate stack of the main thread: faulthandler's before,
# another one after the plugin was loaded; faulthandler's again after a release in the main thread, still the other one
# after a release in a second thread. Nothing is raised and no signal is sent here. Exits non-zero when this changes.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet openvino==2026.4.1 2>/dev/null
cat >"$work/show.py" <<'PYTHON'
import ctypes
import faulthandler
import gc
import sys
import threading

sys.modules["openvino.tools.ovc"] = None  # reports that it was imported
import openvino


class Stack(ctypes.Structure):
    _fields_ = [("address", ctypes.c_void_p), ("flags", ctypes.c_int), ("size", ctypes.c_size_t)]


def stack_of_this_thread():
    found = Stack()
    assert ctypes.CDLL(None).sigaltstack(None, ctypes.byref(found)) == 0
    return found.address


def after_a_release(in_another_thread):
    held = [openvino.Core()]
    held[0].get_property("CPU", "FULL_DEVICE_NAME")  # loads the plugin
    loaded = stack_of_this_thread()

    def release():
        held.clear()
        gc.collect()

    if in_another_thread:
        thread = threading.Thread(target=release)
        thread.start()
        thread.join()
    else:
        release()
    return loaded, stack_of_this_thread()


faulthandler.enable()
own = stack_of_this_thread()
print("openvino", openvino.__version__.split("-")[0])
loaded, here = after_a_release(in_another_thread=False)
print("loading replaces faulthandler's stack:", loaded != own)
print("released in the same thread, it is set again:", here == own)
loaded, there = after_a_release(in_another_thread=True)
print("released in another thread, it is set again:", there == own)
print("and the plugin's is still in use:", there == loaded)
sys.exit(not (loaded != own and here == own and there == loaded != own))
PYTHON
"$work/venv/bin/python" "$work/show.py"
