"""`tether serve`: jobs over HTTP, drawn by one thread, kept in a database."""

from tether.serving.app import create_app
from tether.serving.settings import Limits, Models, Settings

__all__ = ["Limits", "Models", "Settings", "create_app"]
