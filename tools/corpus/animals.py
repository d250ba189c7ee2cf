"""What the world knows about animals: the facts behind both the stories and the question answers."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Animal:
    """One kind of animal, with facts in a form that fits into a sentence."""

    name: str
    plural: str
    eats: str
    home: str
    sound: str
    look: str
    baby: str
    legs: int
    can: str
    in_stories: bool = True


_TABLE = """
fox|foxes|berries, eggs, and mice|in a den|yip|red and furry|cub|4|run fast
rabbit|rabbits|grass, leaves, and carrots|in a burrow|squeak|soft and fluffy|kit|4|hop very far
bear|bears|berries, fish, and honey|in a cave|growl|big and brown|cub|4|climb trees
mouse|mice|seeds, cheese, and crumbs|in a little hole|squeak|small and gray|pup|4|hide in tiny places
owl|owls|mice and bugs|in a hollow tree|hoot|round and feathery|owlet|2|see in the dark
duck|ducks|water plants, bugs, and seeds|by the pond|quack|white or brown|duckling|2|swim and fly
frog|frogs|flies and worms|by the pond|croak|green and smooth|tadpole|4|jump high
cat|cats|fish and meat|in a house|meow|soft with a long tail|kitten|4|land on its feet
dog|dogs|meat, bones, and dog food|in a house|bark|furry with a wagging tail|puppy|4|learn many tricks
squirrel|squirrels|nuts, seeds, and acorns|in a tree|chatter|small with a bushy tail|kit|4|run up a tree
hedgehog|hedgehogs|bugs, worms, and snails|under the leaves|snuffle|round and prickly|hoglet|4|curl up
turtle|turtles|leaves, plants, and worms|near the water|hiss|slow with a hard shell|hatchling|4|hide in its shell
lion|lions|meat|on the grassland|roar|golden with a big mane|cub|4|roar very loudly
elephant|elephants|leaves, grass, and fruit|on the grassland|trumpet|huge and gray|calf|4|spray water with its trunk
monkey|monkeys|bananas, nuts, and leaves|in the jungle|chatter|brown with a long tail|infant|4|swing in the trees
penguin|penguins|fish|on the cold ice|honk|black and white|chick|2|swim very fast
pig|pigs|corn, apples, and roots|on a farm|oink|pink and round|piglet|4|roll in the mud
cow|cows|grass and hay|on a farm|moo|big with brown spots|calf|4|give milk
horse|horses|grass, hay, and apples|in a stable|neigh|tall and strong|foal|4|gallop
sheep|sheep|grass and clover|on the hills|bleat|white and woolly|lamb|4|give warm wool
goat|goats|grass, leaves, and twigs|on a farm|bleat|small with a short beard|kid|4|climb steep rocks
hen|hens|corn, seeds, and worms|in a coop|cluck|plump and brown|chick|2|lay eggs
deer|deer|leaves, grass, and twigs|in the forest|bleat|brown with thin legs|fawn|4|leap over logs
wolf|wolves|meat|in the forest|howl|gray and strong|pup|4|run for a long time
tiger|tigers|meat|in the jungle|roar|orange with black stripes|cub|4|swim well
beaver|beavers|bark, twigs, and leaves|by the river|whine|brown with a flat tail|kit|4|build dams
otter|otters|fish and crabs|by the river|whistle|sleek and brown|pup|4|float on its back
panda|pandas|bamboo|in the mountains|bleat|black and white|cub|4|climb trees
koala|koalas|leaves|in a tree|grunt|gray with big ears|joey|4|sleep all day
kangaroo|kangaroos|grass and leaves|on the dry plains|click|brown with strong legs|joey|4|jump very far
giraffe|giraffes|leaves|on the grassland|hum|tall with brown patches|calf|4|reach the tallest trees
zebra|zebras|grass|on the grassland|bark|black and white|foal|4|run in a big herd
snail|snails|leaves and plants|in the garden|make no sound|small with a round shell|hatchling|0|carry its home
bee|bees|nectar and pollen|in a hive|buzz|yellow and black|larva|6|make honey
butterfly|butterflies|nectar from flowers|in the meadow|make no sound|bright and light|caterpillar|6|fly very softly
spider|spiders|flies and bugs|in a web|make no sound|small with long thin legs|spiderling|8|spin a web
ant|ants|crumbs, seeds, and sugar|in an anthill|make no sound|tiny and black|larva|6|carry heavy things
crow|crows|seeds, worms, and crumbs|in a tall tree|caw|shiny and black|chick|2|solve puzzles
swan|swans|water plants|on the lake|hiss|white with a long neck|cygnet|2|glide on the water
dragon|dragons|hot soup and toast|in a cave|roar|green with big wings|hatchling|4|breathe fire
fish|fish|plants and tiny bugs|in the water|make no sound|shiny with fins|fry|0|swim all day|no
whale|whales|fish and tiny shrimp|in the ocean|sing|very big and blue|calf|0|dive very deep|no
shark|sharks|fish|in the ocean|make no sound|gray with sharp teeth|pup|0|swim very fast|no
octopus|octopuses|crabs and clams|in the ocean|make no sound|soft with eight arms|hatchling|8|change color|no
bat|bats|bugs and fruit|in a cave|squeak|small with thin wings|pup|2|fly in the dark|no
snake|snakes|mice and eggs|in the tall grass|hiss|long and thin|hatchling|0|slide without legs|no
"""


def _parse(line: str) -> Animal:
    cells = line.split("|")
    name, plural, eats, home, sound, look, baby = cells[:7]
    return Animal(name, plural, eats, home, sound, look, baby, int(cells[7]), cells[8], in_stories=len(cells) == 9)


ANIMALS: tuple[Animal, ...] = tuple(_parse(line) for line in _TABLE.strip().splitlines())
BY_NAME: dict[str, Animal] = {animal.name: animal for animal in ANIMALS}
STORY_ANIMALS: tuple[Animal, ...] = tuple(animal for animal in ANIMALS if animal.in_stories)
