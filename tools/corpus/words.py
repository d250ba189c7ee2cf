"""The small world of the stories: people, places, things, weather and feelings."""

from __future__ import annotations

from dataclasses import dataclass


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


GIRLS = _words("Lily Mia Anna Sara Emma Zoe Rosa Nora Ella Lucy Maya Ruby Ivy Clara Daisy Amy Hana Lena Tara June")
BOYS = _words("Tom Ben Max Sam Leo Jack Tim Finn Noah Omar Eli Hugo Theo Adam Luke Oscar Kofi Ravi Danny Pete")
ANIMAL_NAMES_SHE = _words("Pippa Dot Willow Hazel Poppy Luna Honey Bella Maple Coco Olive Pearl Fern Tilly")
ANIMAL_NAMES_HE = _words("Pip Bruno Rusty Milo Oliver Benny Fuzzy Toby Rex Basil Otto Gus Barney Chip")

TRAITS = _words("kind brave curious clever gentle cheerful shy quiet playful careful lively friendly")
COLORS = _words("red blue green yellow orange purple pink white brown golden silver")
SIZES = _words("little small tiny")

TOYS = (
    "kite ball drum scarf hat teddy_bear toy_boat toy_train toy_car doll whistle lantern umbrella balloon "
    "puzzle music_box toy_robot marble bell ring button yo-yo paintbrush storybook basket blanket key flute "
    "wagon"
)
TOY_NOUNS = tuple(toy.replace("_", " ") for toy in _words(TOYS))
TOY_ADJECTIVES = (*COLORS, "shiny", "old", "new", "lovely", "bright", "fine")

SNACKS = (
    ("cookie", "cookies"), ("apple", "apples"), ("muffin", "muffins"), ("pancake", "pancakes"),
    ("strawberry", "strawberries"), ("carrot", "carrots"), ("peach", "peaches"), ("orange", "oranges"),
    ("sandwich", "sandwiches"), ("cupcake", "cupcakes"), ("plum", "plums"), ("pear", "pears"),
    ("banana", "bananas"), ("nut", "nuts"), ("cherry", "cherries"), ("biscuit", "biscuits"),
)  # fmt: skip
DISHES = tuple(
    "apple_pie,vegetable_soup,carrot_cake,warm_bread,pumpkin_soup,honey_cake,berry_jam,noodle_soup,"
    "fruit_salad,banana_bread,tomato_soup,rice_pudding,chocolate_cake,cheese_pizza".replace("_", " ").split(",")
)
INGREDIENTS = (
    "flour", "sugar", "butter", "milk", "honey", "salt", "water", "cinnamon", "fresh herbs",
        "a little cheese",
    "some nuts", "two eggs",
)  # fmt: skip
FLOWERS = _words("roses tulips daisies sunflowers violets lilies poppies bluebells")
TREASURES = (
    "a smooth white stone", "a tiny silver bell", "a blue feather", "an old gold coin", "a pretty shell",
    "a small wooden box", "a round green marble", "a shiny key", "a little glass bottle", "a bright red leaf",
)  # fmt: skip
HOMEMADE = (
    "a birdhouse", "a paper boat", "a snowman", "a treehouse", "a big card", "a crown of flowers",
        "a small raft",
    "a puppet", "a sandcastle", "a kite", "a wooden chair", "a little bridge", "a warm nest", "a long scarf",
)  # fmt: skip
FEARS = (
    ("the dark", "turn on a small lamp"), ("thunder", "count slowly to ten"), ("deep water",
     "take one small step"),
    ("loud noises", "sing a quiet song"), ("high places", "look up at the sky"), ("spiders",
     "look very closely"),
    ("big dogs", "hold out a gentle hand"), ("shadows", "wave at them"), ("new places",
     "hold on tight to a friend"),
)  # fmt: skip
SKILLS = (
    "ride a bike", "swim", "whistle", "tie a bow", "skate", "climb the rope", "play the drum", "paint a face",
    "fly a kite", "juggle", "dance", "bake bread", "throw a ball", "sing the song", "read a map", "jump rope",
)  # fmt: skip

HAPPY = _words("happy glad cheerful joyful proud delighted thankful")
SAD = _words("sad unhappy upset gloomy lonely worried")


@dataclass(frozen=True)
class Setting:
    """A time and the weather that goes with it."""

    opening: str
    weather: tuple[str, ...]


SETTINGS = (
    Setting(
        "[one|on a|one] [sunny|bright|warm|lovely] [morning|day|summer day]",
        (
            "[the sun was shining|the sky was blue|the sky was clear] and [the birds were singing|a soft wind blew].",
            "there was not a [single ]cloud in the sky.",
            "the [warm ]sun made everything [look golden|glow].",
            "[butterflies danced over the flowers|bees hummed in the flowers].",
        ),
    ),
    Setting(
        "one [cool|quiet|misty|early] [autumn |]morning",
        (
            "[soft|thin|white] mist lay over the grass.",
            "the leaves were [red and gold|falling slowly|turning yellow].",
            "the air smelled [fresh and clean|of wet leaves].",
            "tiny drops of water [shone|sparkled] on every leaf.",
        ),
    ),
    Setting(
        "one [cold|snowy|frosty|bright] winter [morning|day]",
        (
            "[soft|fresh|deep] snow covered the [ground|roofs|trees].",
            "the air was [cold and still|so cold that every breath made a little cloud].",
            "snowflakes [danced|drifted|floated] down from the gray sky.",
        ),
    ),
    Setting(
        "one [windy|breezy|cloudy] [afternoon|day]",
        (
            "the wind [shook the trees|whistled over the hills|pushed the clouds across the sky].",
            "big gray clouds [moved|rolled|sailed] across the sky.",
            "the leaves [danced|whirled|spun] in the wind.",
        ),
    ),
    Setting(
        "one [rainy|wet|gray] [day|afternoon|spring morning]",
        (
            "rain [tapped on the leaves|fell softly|made little rivers on the ground].",
            "there were [big |shiny |] puddles everywhere.",
            "[drip, drop, drip, drop, went the rain|the rain sounded like tiny drums].",
        ),
    ),
    Setting(
        "one [warm|quiet|calm|golden] [evening|summer evening]",
        (
            "the sky was turning [pink and orange|purple and gold].",
            "the first star [shone|twinkled] over the trees.",
            "[crickets sang in the grass|an owl called from far away].",
        ),
    ),
)


@dataclass(frozen=True)
class Place:
    """Somewhere a story can happen, and what can be seen, heard and done there."""

    name: str
    where: str
    sights: tuple[str, ...]
    sounds: tuple[str, ...]
    acts: tuple[str, ...]


def _place(name: str, where: str, sights: str, sounds: str, acts: str) -> Place:
    split = [tuple(part.strip() for part in text.split(",")) for text in (sights, sounds, acts)]
    return Place(name, where, *split)


PLACES = (
    _place("park", "in the park", "a stone fountain, a long green bench, a row of tall trees",
           "children laughed, a dog barked, the fountain splashed",
           "feed the ducks, roll down the grassy hill, swing on the swings, play hide and seek"),
    _place("beach", "at the beach", "a tall sandcastle, a tiny crab, a pile of shells, a white boat",
           "the waves splashed, seagulls cried, the wind hummed",
           "collect shells, build a sandcastle, run along the sand, jump over the waves"),
    _place("forest", "in the forest", "a hollow tree, a narrow path, a ring of mushrooms, a mossy rock",
           "the leaves rustled, a bird sang, a branch snapped",
           "climb an old tree, look for mushrooms, follow the winding path, listen to the birds"),
    _place("garden", "in the garden", "a patch of roses, a little stone wall, a bird bath, a green gate",
           "bees buzzed, a robin sang, the gate creaked",
           "water the flowers, dig in the soft dirt, smell the roses, chase butterflies"),
    _place("farm", "on the farm", "a red barn, a stack of hay, a wooden fence, a row of carrots",
           "the hens clucked, a cow mooed, the old gate squeaked",
           "feed the hens, jump in the hay, brush the pony, gather eggs"),
    _place("lake", "by the lake", "a row of ducks, a wooden dock, a green frog, a patch of lilies",
           "a fish splashed, the frogs croaked, the water lapped at the stones",
           "skip stones, paddle a little boat, watch the ducks, splash in the water"),
    _place("meadow", "in the meadow", "a field of daisies, a tall oak tree, a small white butterfly",
           "crickets chirped, the grass whispered, a lark sang",
           "pick daisies, lie in the tall grass, fly a kite, make a daisy chain"),
    _place("hill", "on the hill", "a lonely tree, a big gray rock, a windmill, a flock of sheep",
           "the wind whistled, a sheep bleated, a bell rang far away",
           "look at the clouds, race to the top, roll down the slope, have a picnic"),
    _place("river", "by the river", "a small bridge, a family of otters, a line of round stones",
           "the water gurgled, a frog croaked, the reeds rustled",
           "float paper boats, hop across the stones, catch tiny fish, build a dam"),
    _place("village", "in the village", "a bakery with a blue door, a tall clock, an old well",
           "the church bell rang, a cart rattled by, people chatted in the street",
           "visit the bakery, help the neighbors, skip down the street, look in the shop windows"),
    _place("market", "at the market", "a stall full of fruit, a heap of pumpkins, a jar of honey",
           "people called out to each other, coins clinked, a man played the fiddle",
           "taste the sweet plums, look at the bright scarves, count the pumpkins, buy a fresh roll"),
    _place("orchard", "in the orchard", "a tall ladder, a basket of apples, a bee on a blossom",
           "apples thumped on the grass, bees hummed, the branches creaked",
           "pick ripe apples, climb the ladder, fill the baskets, nap under a tree"),
    _place("playground", "at the playground", "a yellow slide, a big sandbox, a rope ladder",
           "children shouted with joy, the swings squeaked, a whistle blew",
           "slide down the slide, play tag, dig in the sandbox, spin around and around"),
    _place("pond", "by the pond", "a sleepy turtle, a patch of reeds, a dragonfly, a flat green leaf",
           "frogs croaked, a duck quacked, the reeds swayed and whispered",
           "watch the tadpoles, throw pebbles, count the lily pads, wade in the cool water"),
    _place("school yard", "in the school yard", "a tall flag, a painted wall, a bench under a tree",
           "a bell rang, the children cheered, a ball bounced",
           "jump rope, draw with chalk, play ball, trade stickers"),
    _place("library", "in the library", "a shelf of old books, a soft red chair, a round window",
           "pages rustled, the clock ticked, someone whispered",
           "read about dragons, look at pictures of the sea, listen to a story, search for a good book"),
)  # fmt: skip
