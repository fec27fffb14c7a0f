"""The live page: what the event loop, the pools and the rollout do at this moment, in a browser."""

from .page import StatusPage as StatusPage
