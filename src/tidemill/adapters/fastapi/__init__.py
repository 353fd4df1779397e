"""fastapi: applications and manifests written for it (`cicd.py`); the library itself is not needed here."""
