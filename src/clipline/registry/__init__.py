"""Models in MLflow: what serves one, which is the champion, and how one gets to this machine."""
