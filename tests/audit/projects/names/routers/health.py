def check():
    return "ok"
