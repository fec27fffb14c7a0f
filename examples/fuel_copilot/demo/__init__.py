"""The demo: the backend before and after, each as a real server under load, in numbers and in one picture."""
