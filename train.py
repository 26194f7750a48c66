"""Train a model: ``python train.py`` learns scikit-learn's bundled digits, ``--help`` shows the rest."""

import signal

if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(
        signal.SIGINT, signal.SIG_DFL
    )  # Ctrl-C ends the imports without a traceback; main listens again

from vimzoo.engine.cli import main

if __name__ == "__main__":
    main()
