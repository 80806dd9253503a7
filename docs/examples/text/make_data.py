"""Writes short reviews, glad and sad ones, as lines of JSON."""

import json
import random

random.seed(1)
GLAD = ["good", "great", "lovely", "bright", "quick", "kind", "clean", "warm", "excellent", "fresh", "happy"]
SAD = ["bad", "awful", "slow", "rude", "dirty", "cold", "broken", "late", "terrible", "stale", "sad"]
THINGS = ["room", "train", "food", "waiter", "phone", "battery", "garden", "film", "book", "shop", "coffee", "bed"]
FORMS = ("the {0} was {1}", "a {1} {0}, really {2}", "we had a {1} {0} and a {2} {3}", "{0}: {1}, {2}, and again {1}")

with open("reviews.jsonl", "w") as file:
    for _ in range(1200):
        mood = random.choice(["glad", "sad"])
        words = random.sample(GLAD if mood == "glad" else SAD, 2)
        thing, other = random.sample(THINGS, 2)
        text = random.choice(FORMS).format(thing, *words, other)
        file.write(json.dumps({"review": text, "mood": mood}) + "\n")
