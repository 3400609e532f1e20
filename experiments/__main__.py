from experiments.cli import app
from experiments.large.__main__ import train
from experiments.terminal import never_fail_to_print

app.command("train")(train)

if __name__ == "__main__":
    never_fail_to_print()
    app()
