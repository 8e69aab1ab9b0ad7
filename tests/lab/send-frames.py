"""Sends frames of a corpus on an interface.

    send-frames.py INTERFACE CORPUS NAME             that one frame
    send-frames.py INTERFACE CORPUS --mutate N --seed S
                                                     N frames made from them by
                                                     flipping, cutting, filling

A line of the corpus is: name, reason, hex (spaces do not count). Mutations leave
the Ethernet addresses alone, so that the bridge learns nothing wrong.
"""

import argparse
import random
import socket

ETHERNET_HEADER = 14
LONGEST = 1514


def read_corpus(path):
    frames = {}
    with open(path, encoding="utf-8") as lines:
        for line in lines:
            if line.strip() and not line.startswith("#"):
                name, _, text = line.split(None, 2)
                frames[name] = bytes.fromhex(text)
    return frames


def mutate(frame, dice):
    frame = bytearray(frame)
    for _ in range(dice.randint(1, 8)):
        if len(frame) > 12:
            frame[dice.randrange(12, len(frame))] = dice.randrange(256)
    if dice.random() < 0.3:
        del frame[dice.randint(ETHERNET_HEADER, max(ETHERNET_HEADER, len(frame))) :]
    if dice.random() < 0.3:
        frame += dice.randbytes(dice.randint(0, LONGEST - len(frame)))
    return bytes(frame)


def main():
    options = argparse.ArgumentParser()
    options.add_argument("interface")
    options.add_argument("corpus")
    options.add_argument("name", nargs="?")
    options.add_argument("--mutate", type=int, default=0)
    options.add_argument("--seed", type=int, default=0)
    options = options.parse_args()

    frames = read_corpus(options.corpus)
    wire = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
    wire.bind((options.interface, 0))
    if options.name:
        wire.send(frames[options.name])
    dice = random.Random(options.seed)
    corpus = list(frames.values())
    for _ in range(options.mutate):
        wire.send(mutate(dice.choice(corpus), dice))


main()
