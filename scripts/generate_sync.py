def render(out):
    out.mkdir(parents=True)
    (out / "__init__.py").write_text("")
