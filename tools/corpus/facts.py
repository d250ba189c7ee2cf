"""Questions with fixed answers: `question|answer`, where the question may use template alternatives."""

from __future__ import annotations


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


_FACTS = """
[what color is|what is the color of] the sky? = The sky is blue[ on a clear day|]. At night it is black.
[what color is|what is the color of] grass? = Grass is green.
[what color is|what is the color of] the sun? = The sun looks yellow[ in the sky|].
[what color is|what is the color of] a banana? = A ripe banana is yellow.
[what color is|what is the color of] snow? = Snow is white.
[what color is|what is the color of] an apple? = An apple can be red, green, or yellow.
why is the sky blue? = The sky is blue because the air scatters blue light more than other light.
why does it rain? = It rains when tiny drops of water in the clouds grow heavy and fall down.
why do we sleep? = We sleep so that our bodies and minds can rest and grow strong.
why do birds sing? = Birds sing to find a friend and to say that this is their home.
why do leaves fall? = Leaves fall in autumn because the tree needs to rest in winter.
why do we eat? = We eat because food gives us energy to run, think, and grow.
what is rain? = Rain is water that falls from the clouds.
what is snow? = Snow is frozen water that falls in soft white flakes.
what is a cloud? = A cloud is made of many tiny drops of water high up in the air.
what is a rainbow? = A rainbow is a bow of colors in the sky. You see it when the sun shines through rain.
what is a star? = A star is a big ball of hot, bright gas that is very far away.
what is the moon? = The moon is a big ball of rock that goes around the Earth.
what is the sun? = The sun is a star. It gives us light and keeps us warm.
what is a friend? = A friend is someone who is kind to you, plays with you, and helps you.
what is love? = Love is when you care about someone very much and want them to be happy.
what is a book? = A book is a bundle of pages with words and pictures. It can tell you a story.
what is a forest? = A forest is a place with many trees, where animals live.
what is a river? = A river is water that flows over the land to the sea.
what is a farm? = A farm is a place where people grow food and take care of animals.
what is a storm? = A storm is wild weather with strong wind, rain, and thunder.
what is a computer? = A computer is a machine that follows steps very fast. I live inside one.
what is a language model? = A language model is a program that guesses the next word, again and again.
how many days are [there |]in a week? = There are seven days in a week.
how many months are [there |]in a year? = There are twelve months in a year.
how many legs does a table have? = Most tables have four legs.
how many fingers do you have? = I have no fingers, but most people have ten.
how many seasons are there? = There are four seasons: spring, summer, autumn, and winter.
what are the [four |]seasons? = The four seasons are spring, summer, autumn, and winter.
what are the days of the week? = Monday, Tuesday, Wednesday, Thursday, Friday, Saturday, and Sunday.
name the days of the week. = Monday, Tuesday, Wednesday, Thursday, Friday, Saturday, and Sunday.
what is the first month of the year? = The first month of the year is January.
what is the last month of the year? = The last month of the year is December.
what do you do with an umbrella? = You hold an umbrella over your head to stay dry in the rain.
what is an umbrella for? = An umbrella keeps you dry in the rain.
what is a key for? = A key opens a lock.
what is a spoon for? = A spoon is for eating soup and other soft food.
what is a bed for? = A bed is for sleeping and resting.
what is a lamp for? = A lamp gives light when it is dark.
what do we see with? = We see with our eyes.
what do we hear with? = We hear with our ears.
what do we smell with? = We smell with our nose.
where does milk come from? = Milk comes from cows.
where does honey come from? = Honey comes from bees.
where do eggs come from? = Hens lay eggs.
where does bread come from? = Bread is made from flour, and flour comes from wheat.
where do apples grow? = Apples grow on apple trees.
where do fish live? = Fish live in the water.
where does the sun go at night? = The Earth turns around, so at night the sun shines on the other side.
when does the sun rise? = The sun rises in the morning.
when do stars come out? = You can see the stars at night.
which is bigger, a mouse or an elephant? = An elephant is much bigger than a mouse.
which is faster, a turtle or a rabbit? = A rabbit is faster than a turtle.
which is hotter, fire or ice? = Fire is hot, and ice is cold. So fire is hotter.
is fire hot? = Yes, fire is very hot. Do not touch it.
is ice cold? = Yes, ice is cold. It is frozen water.
is the sun hot? = Yes, the sun is very, very hot.
what is the capital of France? = The capital of France is Paris.
what is the capital of Italy? = The capital of Italy is Rome.
what is the capital of England? = The capital of England is London.
what is the capital of Spain? = The capital of Spain is Madrid.
what is the capital of Japan? = The capital of Japan is Tokyo.
what is the capital of Germany? = The capital of Germany is Berlin.
what is the biggest animal? = The biggest animal is the blue whale.
what is the tallest animal? = The tallest animal is the giraffe.
what is the meaning of life? = That is a big question. I think it is to be kind and to share.
how do you make a sandwich? = Take two slices of bread. Put some cheese or jam on one slice. Put the other slice on top.
how do I make tea? = First boil some water. Put tea in a cup. Pour in the hot water and wait a little.
how do you make a snowman? = Roll three big balls of snow. Stack them up. Add a carrot nose and two stone eyes.
how do you plant a seed? = Dig a little hole, put the seed in, cover it with dirt, and give it water. Then wait.
how do I make a friend? = Smile, say hello, and ask them to play with you. Be kind and share.
how do I wash my hands? = Wet your hands, rub them with soap, rinse them, and dry them with a towel.
how can I be kind? = Help others, share your things, and say nice words.
how can I be brave? = Take a deep breath and take one small step. You can ask a friend to help you.
how can I fall asleep? = Close your eyes, breathe slowly, and think of something nice.
how do I bake a cake? = Mix flour, sugar, eggs, and butter. Put the mix in a hot oven, and ask a grown-up to help you.
"""

JOKES: tuple[str, ...] = (
    "Why did the chicken cross the road? To get to the other side!",
    "What do you call a sleeping bull? A bulldozer!",
    "Why did the cookie go to the doctor? It felt crumbly!",
    "What do you call a bear with no teeth? A gummy bear!",
    "Why are fish so smart? They live in schools!",
    "What is brown and sticky? A stick!",
    "Why did the banana go to the party? It had a lot of peel!",
    "What do cows like to read? The moos paper!",
    "How do bees get to school? They take the school buzz!",
    "What time is it when an elephant sits on the fence? Time to get a new fence!",
    "Why did the clock go to the garden? It wanted some thyme!",
    "What did one wall say to the other wall? I will meet you at the corner!",
)
RIDDLES: tuple[str, ...] = (
    "I have hands, but I cannot clap. What am I? I am a clock.",
    "I have a neck, but no head. What am I? I am a bottle.",
    "I get wet while I dry you. What am I? I am a towel.",
    "I have teeth, but I cannot bite. What am I? I am a comb.",
    "I fall, but I never get hurt. What am I? I am the rain.",
    "I have four legs, but I cannot walk. What am I? I am a table.",
    "The more you take from me, the bigger I get. What am I? I am a hole.",
    "I have many pages, but I am not a tree. What am I? I am a book.",
)
OPPOSITES: tuple[tuple[str, str], ...] = (
    ("big", "small"), ("hot", "cold"), ("happy", "sad"), ("up", "down"), ("fast", "slow"), ("day", "night"),
    ("wet", "dry"), ("old", "new"), ("open", "closed"), ("soft", "hard"), ("light", "dark"), ("good", "bad"),
    ("early", "late"), ("full", "empty"), ("loud", "quiet"), ("strong", "weak"), ("long", "short"), ("left",
     "right"),
)  # fmt: skip
RHYMES: tuple[tuple[str, str], ...] = (
    ("cat", "hat"), ("dog", "frog"), ("moon", "spoon"), ("star", "car"), ("tree", "bee"), ("house", "mouse"),
    ("ball", "wall"), ("cake", "lake"), ("boat", "goat"), ("king", "ring"), ("bed", "red"), ("fox", "box"),
    ("light", "night"), ("sun", "fun"), ("rain", "train"), ("snow", "glow"), ("book", "cook"), ("day",
     "play"),
)  # fmt: skip
DAYS: tuple[str, ...] = _words("Monday Tuesday Wednesday Thursday Friday Saturday Sunday")
GROUPS: dict[str, tuple[str, ...]] = {
    "animals": _words("foxes bears rabbits owls lions frogs ducks horses cats dogs"),
    "fruits": _words("apples pears bananas plums peaches cherries oranges strawberries"),
    "colors": _words("red blue green yellow orange purple pink white"),
    "birds": _words("owls ducks swans hens crows robins penguins"),
    "toys": _words("balls dolls kites drums puzzles marbles robots"),
    "flowers": _words("roses tulips daisies sunflowers violets lilies"),
    "vegetables": _words("carrots beans peas potatoes onions tomatoes"),
}
UNKNOWN: tuple[str, ...] = (
    "write a [python|javascript|] [function|program|script]",
        "explain [quantum physics|black holes|machine learning]",
    "who won the [world cup|election|game]", "what is the [stock market|price of gold|speed of light]",
    "translate this [into French|to Spanish|into German]", "what is the weather [today|like today|tomorrow]",
    "what time is it", "what is the latest news", "who is the president", "solve this [equation|integral]",
    "what year is it", "tell me about [history|economics|politics|chemistry]",
    "how does [a car|an engine|the internet] work",
    "summarize this [article|paper|text]", "who wrote [Hamlet|this book]", "how old is the universe",
        "fix my code",
    "what is the population of [China|India|France]", "give me [medical|legal|money] advice",
        "how do I sort a list",
)  # fmt: skip


def _parse(line: str) -> tuple[str, str]:
    question, answer = line.split(" = ")
    return question, answer


FACTS: tuple[tuple[str, str], ...] = tuple(_parse(line) for line in _FACTS.strip().splitlines())
