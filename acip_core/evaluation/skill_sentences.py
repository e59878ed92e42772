"""Sentences like those of `fact_sentences`, of our own making, that ask for a skill in place of a fact.

They are held out, too. "Facts kept" does not count them: its figures stay comparable with those that were published.
"""

from __future__ import annotations

SKILLS = {
    "arithmetic": """\
1 + 1 = 2, 2 + 1 = 3, 3 + 1 = 4
2 + 3 = 5, and 3 + 2 = 5
1 + 2 = 3, 2 + 2 = 4, 3 + 2 = 5
9 - 1 = 8, 8 - 1 = 7, 7 - 1 = 6
9 - 2 = 7, 8 - 2 = 6, 7 - 2 = 5
2 x 2 = 4, 2 x 3 = 6, 2 x 4 = 8
3 x 1 = 3, 3 x 2 = 6, 3 x 3 = 9
8 / 2 = 4, 6 / 2 = 3, 4 / 2 = 2
Half of ten is five, and half of eight is four
Double two is four, and double three is six
""",
    "patterns": """\
one, two, three, four, five
six, seven, eight, nine, ten
ten, nine, eight, seven, six
first, second, third, fourth
one hundred, two hundred, three hundred
A, B, C, D
red blue red blue red blue red blue
left, right, left, right, left, right
The code word is tiger. I repeat: the code word is tiger
Her name is Clara. I met her in Rome. She is called Clara
My dog is called Max. I love my dog Max
""",
    "rhymes": """\
Roses are red, violets are blue
Twinkle, twinkle, little star, how I wonder what you are
Jack and Jill went up the hill
Mary had a little lamb, its fleece was white as snow
Old MacDonald had a farm
Row, row, row your boat, gently down the stream
Words that rhyme: cat and hat, dog and frog, night and light
Words that rhyme: day and say, house and mouse, bear and hair
Words that rhyme: sun and fun, car and star, tree and bee
If you're happy and you know it, clap your hands
Happy birthday to you, happy birthday to you
""",
    "translation": """\
The Spanish word "casa" means house
The Spanish word "agua" means water
The Latin word "terra" means earth
The German word "Haus" means house
Spanish and English: perro is dog, gato is cat, casa is house
Spanish and English: rojo is red, negro is black, blanco is white
Spanish and English: noche is night, sol is sun, agua is water
French and English: chien is dog, maison is house, chat is cat
French and English: rouge is red, noir is black, blanc is white
French and English: pain is bread, lait is milk, eau is water
German and English: Hund is dog, Haus is house, Wasser is water
German and English: rot is red, Hand is hand, Wein is wine
Italian and English: vino is wine, pane is bread, amore is love
""",
    "code": """\
import numpy as np
import pandas as pd
import matplotlib.pyplot as plt
from datetime import datetime
while True: try: pass except Exception as e
for i in range
for key, value in data.items(): print(key, value
for (int i = 0; i < n
SELECT name FROM users WHERE id = 7 ORDER BY
SELECT * FROM
INSERT INTO
x = 5; y = x; print(y) prints 5
if x > 0: return True else: return False
def add(a, b): return a + b
def square(x): return x * x
try: value = int(text) except ValueError
public static void
git commit -m "first version" && git push origin
""",
    "comparison": """\
old, older, oldest; big, bigger, biggest; small, smaller, smallest
fast, faster, fastest; good, better, best
I am taller than you, so you are shorter than me
A mile is longer than a kilometer, so a kilometer is shorter than a mile
Tom is older than Ann, so Ann is younger than Tom
An elephant is bigger than a mouse, so a mouse is smaller than an elephant
""",
    "analogies": """\
Hot is to cold as up is to down
Day is to night as black is to white
Bird is to fly as fish is to swim
King is to queen as prince is to princess
Paris is to France as Rome is to Italy
Foot is to shoe as hand is to glove
Big is to small as fast is to slow
""",
    "reading": """\
The movie was boring and far too long. I did not like it
Anna has a red car. Anna loves her car. The color of her car is red
Ben put the key into the drawer. The key is in the drawer
It was midnight and very dark outside, so she turned on the light
The glass fell off the table and broke into a thousand pieces
He was very thirsty after the run, so he drank a lot of water
It was cold outside, so she put on her coat
The baby was hungry and began to cry
""",
}

# What a page shows together.
GROUPS = {
    "Places": ("capitals", "geography", "languages"),
    "Nature": ("animals", "body", "chemistry", "science", "colors"),
    "Culture": ("history", "books and art", "religion and myth", "family", "everyday things"),
    "Numbers": ("numbers", "time", "money", "arithmetic", "patterns"),
    "Words": ("opposites", "grammar", "phrases", "comparison"),
    "Skills": ("rhymes", "translation", "code", "analogies", "reading"),
}
