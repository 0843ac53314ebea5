"""AUTOMATIC1111's HTTP API and that of its ControlNet extension, over the same jobs as the native API.

Existing clients work unchanged. What they ask for and Tether does not do is refused by its name.
"""

from tether.serving.webui.routes import router

__all__ = ["router"]
