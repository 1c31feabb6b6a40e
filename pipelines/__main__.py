"""`python -m pipelines` is `calcium-score`."""

from pipelines.cli import main

if __name__ == "__main__":
    main(prog_name="calcium-score")
