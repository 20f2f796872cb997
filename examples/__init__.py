"""Programs to read, run and copy: `examples.quickstart` in one page, `examples.retail` as a small shop."""
