"""``python -m codio_dht.cli`` is the command ``codio-dht``."""

from codio_dht.cli.main import main

if __name__ == "__main__":
    main()
