from experiments.run import app

if __name__ == "__main__":
    app()
