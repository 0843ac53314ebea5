"""People in an image: bodies, hands and faces as points, by MediaPipe's networks, whose weights are shipped (BlazePose,
arXiv:2006.10204; MediaPipe Hands, arXiv:2006.10214; face mesh, arXiv:1907.06724).

    image -> people -> body -> hands, face

A network for people says where somebody is and how large and turned; each other network sees a square cut out there,
turned upright. Which points they give, and how the squares follow from them, is MediaPipe's holistic solution; here
each body is looked at twice, the second time in the square that its own points give, and people are looked for in the
whole image and in parts of it.

People of less than a tenth of the image's height are missed, and of people who hide each other some.
"""

from __future__ import annotations

from tether.detectors.pose.people import Person, find_people

__all__ = ["Person", "find_people"]
