"""Short rhyming poems about simple topics, built from couplets."""

from __future__ import annotations

import random

COUPLETS: dict[str, tuple[tuple[str, str], ...]] = {
    "rain": (
        ("The rain comes tapping on the pane,", "and I am glad to hear the rain."),
        ("Drip and drop upon the tree,", "every drop is there for me."),
        ("Little puddles, round and bright,", "shine like mirrors in the light."),
        ("When the rain has gone away,", "we will run outside and play."),
    ),
    "the moon": (
        ("The moon is round, the moon is white,", "it walks across the sky at night."),
        ("Silver moon above the hill,", "all the world is soft and still."),
        ("When I lie in bed and peep,", "the moon looks in and says, go sleep."),
        ("Moon, oh moon, so far and high,", "do you ever leave the sky?"),
    ),
    "the sun": (
        ("Good morning, sun, so warm and bright,", "you chase away the long dark night."),
        ("The sun wakes up the birds that sing,", "the sun is good to everything."),
        ("Golden light on field and tree,", "golden light for you and me."),
        ("When evening comes and day is done,", "we wave and say good night, dear sun."),
    ),
    "snow": (
        ("Soft white snow on roof and tree,", "falling down for you and me."),
        ("Snowflakes dance and turn and fall,", "snow is quiet, that is all."),
        ("We make a man with a carrot nose,", "and we are cold down to our toes."),
        ("The hills are white, the sky is gray,", "come out, come out, and let us play."),
    ),
    "a cat": (
        ("My cat is soft, my cat is gray,", "she sleeps and purrs for half the day."),
        ("She chases leaves, she climbs the wall,", "she is not scared of things at all."),
        ("Two green eyes and one pink nose,", "she walks so softly on her toes."),
        ("At night she curls up on my bed,", "a warm round ball beside my head."),
    ),
    "a dog": (
        ("My dog can run, my dog can bark,", "he loves to play inside the park."),
        ("He wags his tail, he licks my hand,", "he is the best dog in the land."),
        ("I throw the ball, he brings it back,", "my funny dog is brown and black."),
        ("When I come home at half past three,", "my dog is there to welcome me."),
    ),
    "the sea": (
        ("The sea is deep, the sea is blue,", "it sings a song for me and you."),
        ("The waves come in, the waves go out,", "the seagulls fly and call and shout."),
        ("I found a shell upon the sand,", "I held the sea inside my hand."),
        ("A little boat sails far away,", "it will come home another day."),
    ),
    "a tree": (
        ("The tall old tree beside the gate,", "he likes to stand, he likes to wait."),
        ("His leaves are green, his branches long,", "a robin sings in him a song."),
        ("In summer time he gives me shade,", "he is the best friend ever made."),
        ("And when the leaves come floating down,", "they are yellow, red, and brown."),
    ),
    "a friend": (
        ("A friend is someone good and kind,", "the finest thing that you can find."),
        ("We share our bread, we share our play,", "we laugh together every day."),
        ("And if I ever feel alone,", "my friend will come and take me home."),
        ("You hold my hand and I hold yours,", "we run together out of doors."),
    ),
    "spring": (
        ("The snow is gone, the grass is green,", "the nicest spring I ever have seen."),
        ("The birds come back, they build a nest,", "I think I like the spring the best."),
        ("A little flower lifts its head,", "it just woke up and left its bed."),
        ("The lambs are jumping in the sun,", "the spring is here for everyone."),
    ),
    "the wind": (
        ("The wind goes running over the hill,", "it never, never will be still."),
        ("It took my hat, it shook the tree,", "I think it wants to play with me."),
        ("Who has seen it? No, not I,", "but I have heard it passing by."),
        ("It sings a song around the door,", "then it runs off to play some more."),
    ),
    "night": (
        ("The day is done, the stars are bright,", "the whole wide world says good night."),
        ("The owl flies out, the birds sleep tight,", "and everything is soft and light."),
        ("So close your eyes and count to ten,", "and soon the sun will come again."),
        ("The little house is warm and deep,", "and all the mice have gone to sleep."),
    ),
    "flowers": (
        ("Red and yellow, white and blue,", "I picked a flower just for you."),
        ("They drink the rain, they love the sun,", "the bees go round to every one."),
        ("They grow beside the garden wall,", "some are short and some are tall."),
        ("They close their cups when day is done,", "and open with the morning sun."),
    ),
    "birds": (
        ("A little bird sits in the tree,", "he sings a happy song to me."),
        ("He has two wings, he has a nest,", "he knows which berry is the best."),
        ("Fly up, fly high, fly far away,", "but please come back another day."),
        ("The eggs are blue, the nest is round,", "it is up high above the ground."),
    ),
}
TOPICS: tuple[str, ...] = tuple(COUPLETS)


def make_poem(rng: random.Random, topic: str) -> str:
    """Two or three couplets about the topic, each on two lines."""
    couplets = COUPLETS[topic]
    picked = sorted(rng.sample(range(len(couplets)), rng.randint(2, 3)))
    return "\n".join(f"{first}\n{second[:1].upper()}{second[1:]}" for first, second in (couplets[i] for i in picked))
