"""What prompts and annotated answers speak of: topics with facts, things, names, places.

Facts follow their topic or "They", so that they make sentences of any number of words. No commas,
no numbers: constraints would count them.
"""

from __future__ import annotations

TOPICS = {
    "rivers": ("carry water to the sea", "bend through green valleys", "give fish a home",
               "shape the land slowly", "rise after heavy rain", "freeze in cold winters"),
    "dogs": ("love long walks", "guard the house at night", "learn new tricks quickly",
             "greet their friends with joy", "sleep near the door", "follow a smell for miles"),
    "trains": ("run on steel rails", "cross high bridges", "bring people to work",
               "stop at every small town", "save a lot of fuel", "leave the station on time"),
    "gardens": ("bloom in early spring", "need water in summer", "feed bees and birds",
                "offer a quiet place to rest", "grow better with good soil", "smell sweet at dusk"),
    "books": ("open doors to other worlds", "keep old stories alive", "teach us new words",
              "wait quietly on the shelf", "travel well in a bag", "make long evenings short"),
    "clouds": ("drift across the sky", "bring rain to dry fields", "hide the sun for a while",
               "glow red at sunset", "form above warm water", "take many strange shapes"),
    "cities": ("grow along rivers and roads", "stay awake all night", "mix many ways of life",
               "shine with lights at night", "offer work to many people", "need clean parks"),
    "forests": ("clean the air we breathe", "shelter deer and owls", "turn golden in autumn",
                "hold water like a sponge", "grow for hundreds of years", "smell of wet leaves"),
    "bees": ("visit thousands of flowers", "make sweet honey", "dance to show the way",
             "live in large families", "help fruit trees to grow", "rest when it is cold"),
    "mountains": ("rise above the clouds", "keep snow until summer", "test every climber",
                  "send cold streams downhill", "stand still for ages", "echo every loud call"),
    "bakers": ("get up before dawn", "knead soft dough by hand", "fill the street with good smells",
               "sell warm bread", "know their ovens well", "dust the table with flour"),
    "cats": ("sleep most of the day", "land on their feet", "hunt mice in the barn",
             "purr when they are happy", "see well in the dark", "choose their own friends"),
    "teachers": ("explain hard things simply", "ask good questions", "learn from their pupils",
                 "mark papers in the evening", "remember many names", "make shy children speak"),
    "bridges": ("join two sides of a river", "carry heavy trucks", "sway a little in the wind",
                "need care every year", "shorten long journeys", "look fine in morning mist"),
    "stars": ("shine in the night sky", "guide sailors home", "burn for a very long time",
              "seem small from far away", "fade when morning comes", "inspire old songs"),
    "bicycles": ("cost very little to run", "keep riders fit", "fit through narrow streets",
                 "need air in both tires", "rest against any wall", "make no smoke"),
    "farmers": ("rise with the sun", "watch the weather closely", "harvest grain in summer",
                "care for tired soil", "repair their own machines", "feed the whole town"),
    "oceans": ("cover most of the planet", "store a lot of heat", "hide deep valleys",
               "move with the moon", "taste of salt", "link distant lands"),
    "kitchens": ("smell of fresh soup", "bring families together", "hold knives and warm pans",
                 "need a good window", "fill with noise at noon", "keep recipes alive"),
    "painters": ("mix bright colors", "study light and shadow", "work near tall windows",
                 "look twice at plain things", "fill whole walls", "clean their brushes at night"),
    "owls": ("fly without a sound", "hunt small animals at night", "turn their heads far around",
             "nest in hollow trees", "hear a mouse under snow", "rest during the day"),
    "markets": ("open early on Saturdays", "sell fruit in every color", "reward those who wait",
                "smell of herbs and cheese", "fill the old square", "close before the rain"),
    "winters": ("make the nights long", "cover roads with ice", "let the fields rest",
                "paint flowers on windows", "bring friends indoors", "end with melting snow"),
    "letters": ("carry news from far away", "smell of ink and paper", "wait in a wooden box",
                "take days to arrive", "say what calls cannot", "stay in drawers for years"),
}  # fmt: skip

ADVERBS = ("also", "often", "always", "usually", "sometimes", "really")

# Words that a text on any topic can be asked for.
WORDS = (
    "garden", "window", "music", "silver", "morning", "friend", "color", "water", "ladder",
    "blanket", "summer", "stone", "paper", "lantern", "harbor", "evening", "travel", "orange",
    "winter", "bread", "market", "island", "castle", "button", "pencil", "forest", "basket",
    "candle", "mirror", "rocket",
)  # fmt: skip
COMMON = ("the", "and", "they", "we", "very", "great", "many", "people")  # asked to avoid
LETTERS = "jkqvxz"  # asked to avoid
OPENINGS = ("Here it is:", "My answer:", "Well then:", "Sure thing:", "Dear reader:", "In short:")
ENDINGS = ("That is all.", "Thank you.", "Have a nice day.", "I hope this helps.", "The end.")

NAMES = (
    "Anna", "Ben", "Carla", "David", "Elena", "Felix", "Grace", "Henry", "Ines", "Jonas",
    "Karin", "Leo", "Maria", "Nils", "Olga", "Paul", "Rosa", "Simon", "Tara", "Victor",
)  # fmt: skip
PLACES = (
    "Berlin", "Cairo", "Dublin", "Geneva", "Havana", "Lisbon", "Madrid", "Nairobi", "Oslo", "Paris",
    "Prague", "Quito", "Rome", "Sofia", "Tokyo", "Vienna",
)  # fmt: skip
COLORS = ("red", "blue", "green", "white", "black", "brown", "purple", "pink")
GOODS = (
    "bicycle", "jacket", "lamp", "table", "violin", "blanket", "teapot", "scarf", "kite", "boat",
)  # fmt: skip
DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
THINGS = (
    "apple", "bell", "chair", "drum", "eagle", "fork", "glove", "hammer", "iron", "jar", "key",
    "lemon", "nail", "oven", "plum", "quilt", "rope", "spoon", "tulip", "vase", "wagon", "zebra",
)  # fmt: skip
ANIMALS = ("horse", "tiger", "sparrow", "shark", "rabbit", "goose", "whale", "frog")
FRUITS = ("apple", "banana", "cherry", "grape", "lemon", "mango", "pear", "plum")
TOOLS = ("hammer", "saw", "screwdriver", "wrench", "shovel", "rake", "chisel", "axe")
KINDS = {"an animal": ANIMALS, "a fruit": FRUITS, "a tool": TOOLS, "a color": COLORS}
NEITHER = ("river", "cloud", "song", "street", "winter", "story", "village", "island", "letter",
           "music", "kitchen", "teacher")  # fmt: skip

_TO_19 = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen "
    "sixteen seventeen eighteen nineteen"
).split()
_TENS = "twenty thirty forty fifty sixty seventy eighty ninety".split()
NUMBER_WORDS = (
    *_TO_19,
    *(f"{ten} {_TO_19[unit]}" if unit else ten for ten in _TENS for unit in range(10)),
)
ORDINALS = ("first", "second", "third", "fourth", "fifth")
