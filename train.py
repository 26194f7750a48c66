"""Train a model: ``python train.py`` learns scikit-learn's bundled digits, ``--help`` shows the rest."""

from vimzoo.engine.cli import main

if __name__ == "__main__":
    main()
