from store import load


def clean():
    return load()
