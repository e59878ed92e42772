"""Sentences for `facts.py`, of our own making, by field: one on a line, whose last word is the answer.

They are held out: nothing may be calibrated or trained on them. The answer is the one word that comes to mind. Most are
chosen so that a model of 135M parameters knows them: a small model, too, must have something to lose.
"""

from __future__ import annotations

SENTENCES = {
    "capitals": """\
The capital of Germany is called Berlin
The capital of France is the city of Paris
The capital of Italy is the city of Rome
The capital of Spain is the city of Madrid
The capital of Japan is the city of Tokyo
The capital of Russia is the city of Moscow
The capital of England is the city of London
The capital of China is the city of Beijing
The capital of Egypt is the city of Cairo
The capital of Greece is the city of Athens
The capital of Austria is the city of Vienna
The capital of Portugal is the city of Lisbon
The capital of Ireland is the city of Dublin
The capital of Cuba is the city of Havana
The capital of South Korea is the city of Seoul
The capital of Hungary is the city of Budapest
The capital of Norway is the city of Oslo
The capital of Denmark is the city of Copenhagen
The capital of Iran is the city of Tehran
The capital of Canada is the city of Ottawa
The capital of the Czech Republic is the city of Prague
""",
    "geography": """\
The Eiffel Tower stands in the city of Paris
The Great Wall is a famous monument in the country of China
The Taj Mahal is a famous monument in the country of India
The Nile is a long river on the continent of Africa
Mount Fuji is a mountain in the country of Japan
Kangaroos and koalas live in the country of Australia
Milan and Venice are cities in Italy
Toronto and Vancouver are cities in Canada
Edinburgh is the capital of Scotland
Houston and Dallas are cities in the state of Texas
Miami is a city in the state of Florida
Chicago is a city in the state of Illinois
The Grand Canyon is in the state of Arizona
The largest state of the United States by area is the state of Alaska
London lies on the River Thames
Big Ben is a famous clock in London
The continent at the South Pole is called Antarctica
The sun rises in the east and sets in the west
""",
    "languages": """\
In Germany people speak German, and in France people speak French
In Italy people speak Italian, and in Portugal people speak Portuguese
The official language of Israel is Hebrew
The official language of Egypt is Arabic
The official language of Greece is Greek
The official language of Turkey is Turkish
The official language of Sweden is Swedish
The most widely spoken language in Mexico is Spanish
The ancient Romans spoke the language called Latin
The word "bonjour" is a greeting in French
"Guten Tag" is a greeting in German
"Arigato" means "thank you" in Japanese
""",
    "money": """\
The common currency of France, Germany and Italy is the euro
The currency of Russia is the ruble
The unit of money in India is the rupee
One hundred cents make one dollar
""",
    "numbers": """\
One plus one is two, and two plus two is four
Three times two is six, and five times two is ten
Counting goes one, two, three, four, five
Counting backwards goes five, four, three, two, one
First, second, third, fourth, fifth
Ten, twenty, thirty, forty, fifty
Ten times ten is one hundred
A triangle has three sides and a square has four
A number that can be divided by two is even, and a number that cannot is odd
A right angle measures ninety degrees
A shape with three sides is called a triangle
A week has seven days
A day has twenty-four hours
One hour is sixty minutes, and one minute is sixty seconds
One foot is twelve inches, and one yard is three feet
""",
    "time": """\
Monday, Tuesday, Wednesday, Thursday
The day after Monday is Tuesday, and the day after Tuesday is Wednesday
January, February, March, April
September, October, November, December
The month after March is April, and the month after April is May
The shortest month of the year is February
Christmas is celebrated on the 25th of December
Spring, summer, autumn, winter
Breakfast is in the morning, and dinner is in the evening
The sun shines during the day and the moon shines at night
Yesterday, today and tomorrow
A second, a minute, an hour
Ten years are a decade, and one hundred years are a century
A leap year has one extra day
""",
    "opposites": """\
The opposite of hot is cold
The opposite of black is white
The opposite of young is old
The opposite of strong is weak
The opposite of wet is dry
The opposite of success is failure
The opposite of maximum is minimum
High and low, near and far
Before and after, early and late
In and out, on and off
The stairs go up and the stairs go down
The rabbit is fast, but the turtle is slow
Some people are rich, and others are poor
Some games we win, and some games we lose
The glass is either half full or half empty
Who is not dead is still alive
He laughed when he was happy and cried when he was sad
""",
    "family": """\
A father and a mother, a son and a daughter
A man and a woman, a boy and a girl
An uncle and an aunt
A bride and a groom
The wife of a king is a queen, and the wife of a prince is a princess
Your mother's sister is your aunt, and your mother's brother is your uncle
A woman whose husband has died is called a widow
""",
    "animals": """\
A young dog is called a puppy, and a young cat is called a kitten
A young cow is called a calf, and a young sheep is called a lamb
A tadpole grows into a frog, and a caterpillar grows into a butterfly
Cows give milk, and bees make honey
Chickens lay eggs
Birds build a nest
Birds have feathers and fish have scales
Penguins are birds that cannot fly
A dog is a mammal, and an eagle is a bird
Frogs and toads are amphibians, and snakes are reptiles
Salmon and tuna are kinds of fish
The largest animal in the world is the blue whale
The tallest animal in the world is the giraffe
Giant pandas eat mostly bamboo
Animals that eat only meat are called carnivores
A group of wolves is called a pack
Humans breathe with lungs, and fish breathe with gills
""",
    "body": """\
The heart pumps blood
We see with our eyes, hear with our ears and smell with our nose
We chew our food with our teeth
The foot has five toes and the hand has five fingers
The foot is joined to the leg at the ankle
Shoes are worn on the feet, and gloves are worn on the hands
The largest organ of the human body is the skin
Red blood cells carry oxygen
A doctor who works on teeth is called a dentist
Infections with bacteria are treated with antibiotics
""",
    "chemistry": """\
Water is made of two elements, hydrogen and oxygen
The chemical symbol H stands for hydrogen
The chemical symbol Fe stands for iron
The chemical symbol Na stands for sodium
The chemical symbol O stands for oxygen, and the symbol N stands for nitrogen
The chemical symbol for gold is Au
An atom is made of protons, neutrons and electrons
Matter is solid, liquid or gas
Water freezes at zero degrees Celsius
When water boils, it turns into steam
Pencils contain graphite, which is a form of carbon
Most of the air is made of nitrogen
""",
    "science": """\
The planet closest to the Sun is Mercury
The largest planet in the solar system is Jupiter
The planet with the famous rings is Saturn
The planet known as the red planet is Mars
The Earth revolves around the Sun
The force that makes apples fall from trees is called gravity
The speed of light is faster than the speed of sound
Speed is distance divided by time
Force equals mass times acceleration
Temperature is measured with a thermometer
An earthquake is measured on the Richter scale
The genetic material of cells is called DNA
The pigment that makes leaves green is chlorophyll
Plants take up water from the soil through their roots
The study of the stars and planets is called astronomy
The study of the mind and behavior is called psychology
The study of rocks is called geology
The longest side of a right triangle is called the hypotenuse
The theory of relativity was developed by Albert Einstein
The theory of evolution by natural selection was developed by Charles Darwin
The light bulb was invented by Thomas Edison
""",
    "history": """\
The first president of the United States was George Washington
The first man to walk on the Moon was Neil Armstrong
The president during the American Civil War was Abraham Lincoln
The French emperor who lost at Waterloo was Napoleon
Cleopatra was a queen of ancient Egypt
Socrates was a philosopher in ancient Greece
Julius Caesar was a leader of ancient Rome
The Inca Empire was in what is now Peru
The Renaissance began in Italy
Vladimir Lenin led the revolution in Russia
The atomic bomb was dropped on the Japanese city of Hiroshima
The ship that struck an iceberg in 1912 was the Titanic
The kings of ancient Egypt were called pharaohs
The printing press was invented by Johannes Gutenberg
""",
    "books and art": """\
"Hamlet" is a play by William Shakespeare
"Pride and Prejudice" was written by Jane Austen
"The Adventures of Tom Sawyer" was written by Mark Twain
The "Mona Lisa" was painted by Leonardo da Vinci
"Guernica" was painted by Pablo Picasso
The play by Shakespeare about two young lovers is called "Romeo and Juliet
The detective Sherlock Holmes and his friend Dr. Watson
The superhero Batman and his sidekick Robin
Robin Hood stole from the rich and gave to the poor
Mozart was a composer of classical music
A person who writes poems is called a poet
""",
    "religion and myth": """\
The holy book of Islam is the Quran
The holy book of Christianity is the Bible
Christians worship in a church, and Muslims worship in a mosque
The first woman and the first man were Adam and Eve
The founder of Buddhism is called the Buddha
The king of the gods in Greek mythology is Zeus
The Norse god of thunder is Thor
""",
    "colors": """\
Snow is white, and coal is black
Bananas are yellow, and strawberries are red
The three primary colors are red, yellow and blue
At a traffic light, red means stop and green means go
""",
    "everyday things": """\
Bread is baked in an oven
Bread is made from wheat, and wine is made from grapes
Sugar tastes sweet, and lemons taste sour
A feather is light, and a stone is heavy
It is raining, so take an umbrella
Before you go to bed, brush your teeth
Soup is eaten with a spoon
A piano has black and white keys
A violin has four strings
Baseball is played with a bat and a ball
The Olympic Games are held every four years
Teachers work in a school, and doctors work in a hospital
Bread is sold by a baker, and meat is sold by a butcher
A person who flies an airplane is called a pilot
A person who takes photographs is called a photographer
The iPhone is made by a company called Apple
Toyota and Honda are companies from Japan
""",
    "phrases": """\
The price is set by supply and demand
The food was seasoned with salt and pepper
The storm brought thunder and lightning
Actions speak louder than words
Practice makes perfect
An apple a day keeps the doctor away
The early bird catches the worm
Don't judge a book by its cover
The proverb says that Rome was not built in a day
Two heads are better than one
Don't put all your eggs in one basket
You can't teach an old dog new tricks
The apple doesn't fall far from the tree
The quick brown fox jumps over the lazy dog
""",
    "grammar": """\
I am, you are, he is
One mouse, two mice
The plural of foot is feet, and the plural of tooth is teeth
Today I go, yesterday I went
Today I eat, yesterday I ate
The five vowels are A, E, I, O and U
A question ends with a question mark
A word that describes a noun is called an adjective
A word that names a thing is called a noun
""",
}
