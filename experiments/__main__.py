from experiments.large.__main__ import train
from experiments.run import app

app.command("train")(train)

if __name__ == "__main__":
    app()
