"""What the scripts of all engines share: `SCRIPT MODEL NAME PORT KEY [--embeddings]`."""

import argparse


def arguments():
    parser = argparse.ArgumentParser()
    parser.add_argument("model", help="the file or folder")
    parser.add_argument("name", help="what clients call it")
    parser.add_argument("port")
    parser.add_argument("key", help="what clients must give as their API key")
    parser.add_argument("--embeddings", action="store_true", help="instead of chat")
    return parser.parse_args()
