"""Plots about making, growing, cooking and surprising."""

from __future__ import annotations

from corpus.plot import Plot

MAKING = Plot(
    "making something",
    (
        '{time}, {H} had an idea. "[I will make {homemade}|I want to make {homemade}|let us make '
        '{homemade}]," {he} said. [{weather}|{he} was so excited that {he} hopped on one foot.|]',
        "[first {he} had to find everything {he} needed.|{he} looked for things to use.] {he} found [some "
        "sticks and a piece of string|an old box and {color} paper|a pot of {color} paint and a brush|some "
        "cloth and a long rope]. [{F} came to watch.|then {Fk} came by.]",
        '"[what are you doing|what will it be|can I help]?" asked {F}. "[I am making {homemade}|wait and '
        'see|yes, you can hold this]," said {H}. [so they worked side by side.|they cut, and tied, and '
        "painted.|{F} handed {him} things, one by one.]",
        "[but it was not easy.|at first it did not work.|then everything fell apart.] [one side was too "
        'long.|it kept falling over.|the string broke.] [{H} was ready to give up.|"it looks silly," said '
        "{H}.|{F} began to giggle.]",
        '"[let us try another way|we can fix it|look, if we turn it around, it works]," said {F}. [they '
        "started again from the beginning.|they tried it this way and that way.|this time they went slowly.]",
        "[at last it was done.|by the end of the day, it was ready.|finally they stepped back to look.] [it "
        "was a bit crooked, but it was theirs.|it was {color} and {color2}, and it was lovely.|it looked "
        "even better than in their dreams.]",
        '[{G} came out to see it. "how clever you are!" {ghe} said.|everyone {where} came to look.|they '
        'showed it to {G}, and {ghe} clapped.] "[we made it together|two heads are better than one|it took '
        'us all day]," said {H} with a [proud|big|happy] smile.',
    ),
)

GARDEN = Plot(
    "a secret garden",
    (
        "behind {G}'s house there was a high wall. [nobody knew what was on the other side.|{H} often "
        "wondered what was behind it.|green leaves grew all over it.]",
        "{time}, {H} [saw a small door in the wall|found an old key under a stone|followed a robin along "
        "the wall]. [{weather}|{his} heart beat fast.] [{he} pushed aside the leaves.|{he} turned the "
        "handle slowly.] the door [opened with a creak|swung open|groaned and opened].",
        "inside was a secret garden. [it was wild and quiet.|everything was dry and full of weeds.|no one "
        "had been there for years.] [there was {sight}.|in the middle stood an old stone bench.|a broken "
        "swing hung from a tree.]",
        '["who is there?" asked a voice.|something moved in the grass.|a {stranger} looked up.] it was a '
        '{animal}. "[I live here|I have been all alone|once this garden was full of {flowers}]," {ahe} '
        'said. "[but nobody takes care of it now|but the flowers are gone|will you help me make it pretty '
        'again]?"',
        "[the next day {H} came back with a small spade.|{H} told only {F} about the garden.|{H} came back "
        "every day.] [they pulled the weeds and watered the ground.|{he} planted seeds in neat rows.|they "
        "dug, and planted, and swept the path.]",
        "[weeks went by.|it rained, and then the sun came out.|they waited and waited.] [one morning there "
        "were tiny green leaves.|then the first {flowers} opened.|little by little, the garden woke up.] "
        "[bees came.|the birds came back to sing.|]",
        "[soon the garden was full of {flowers}.|now it was the loveliest place of all.|at last everything "
        'was in bloom.] "[it is like magic|you did this|thank you]," said the {animal}.',
        "[{H} opened the door so that everyone could come in.|{H} kept the key on a string around {his} "
        "neck.|and whenever {he} felt {sad}, {he} went to sit in the secret garden.]",
    ),
)

COOKING = Plot(
    "learning to cook",
    (
        "{H} loved to eat {dish}. [but {he} had never made it.|{G} made the best {dish} of all.|{he} could "
        'smell it from far away.] {time}, {he} said, "[please teach me to cook|I want to make it by '
        'myself|can I help you cook, {G}]?"',
        '"[of course|what a good idea|yes, wash your hands first]," said {G}. [they put on aprons.|{H} '
        "stood on a small chair.|{G} opened a big old book.] they took {ingredient}, {ingredient2}, and "
        "{ingredient3}.",
        '[{H} mixed it all in a big bowl.|"stir slowly," said {G}.|{H} poured, and mixed, and stirred.] '
        "[some of it landed on the floor.|soon there was flour on {his} nose.|it was a sticky mess.] [they "
        'both laughed.|"never mind," said {G}.|]',
        "[but then {H} made a mistake.|but {H} was in a hurry.|{H} wanted to surprise {G}.] {he} [put in "
        "salt and not sugar|forgot the most important part|put in a whole cup of salt]. [when they tasted "
        'it, they made a face.|"yuck!" said {H}.|it tasted terrible.]',
        '["I spoiled it," said {H} with a sigh.|{H} was {sad}.|{H} hung {his} head.] "[every cook makes '
        'mistakes|once I burned a whole pot of soup|we will just try again]," said {G}[ with a wink|]. '
        '"[this time we taste as we go|read each step twice]."',
        "[so they began again.|the second time, {H} was very careful.|{he} measured each thing with care.] "
        "[soon a sweet smell filled the house.|{he} watched the pot and waited.|the kitchen grew warm and "
        "cozy.]",
        '[at last it was ready.|ding! It was done.] [{F} came to the door. "what smells so good?" {fhe} '
        "asked.|they called {F} to come and eat.] [everyone had two bowls.|they ate it all up.|not a crumb "
        'was left.] "[this is the best {dish} in the world|who made this|you are a real cook now]," said '
        "{F}.",
        '[{H} smiled from ear to ear.|{H} was so {happy} that {he} danced around the table.|"next time I '
        'will make it for everybody," said {H}.]',
    ),
)

BIRTHDAY = Plot(
    "a birthday surprise",
    (
        "it was {H}'s birthday. [{he} woke up early and ran to the window.|{he} was {number} years old "
        "today.|{weather}] [but nobody said a word about it.|but when {he} came down, no one was "
        'there.|"good morning," said {G}, and that was all.]',
        '{T} went to see {F}. ["do you know what day it is?" {he} asked.|"guess what day it is," {he} '
        'said.] "[it is washing day|I am sorry, I am busy|is it Tuesday]," said {F}, and {fhe} [shut the '
        "door|ran off|hurried away].",
        "[{H} walked slowly to the {place}.|{H} sat {where} all alone.|{H} went from house to house, but "
        'everyone was busy.] "[everyone forgot my birthday|nobody remembers me]," {he} said. {he} felt '
        "{sad}.",
        "[when the sun was low, {he} went home.|late in the day, {G} called {him}.|then {he} heard a soft "
        "noise behind the door.] the house was dark and quiet. [{he} opened the door very slowly.|{he} put "
        "{his} hand on the door.]",
        '"surprise!" [everyone shouted|shouted {F} and {G} and all {his} friends|they all cried]. [there '
        "were {color} balloons and a big cake.|lights went on, and there was {dish} on the table.|the room "
        "was full of {flowers}.]",
        '"[we were getting ready all day|how could we forget you|I almost told you the secret]," said {F}. '
        "{F} gave {him} a {toy}. [{H} laughed and cried at the same time.|{H} hugged everyone twice.|{H} "
        "could not stop smiling.]",
        "[they sang, and danced, and played until late.|they ate every crumb of the cake.|{he} blew out the "
        'candles and made a wish.] "[this is the best birthday ever|you are the best friends in the '
        'world]," said {H}.',
    ),
)

SEED = Plot(
    "planting a seed",
    (
        '{G} gave {H} a tiny seed. "[plant it and take good care of it|be patient with it|something '
        'wonderful is asleep inside]," said {G}.',
        "{time}, {H} dug a little hole {where2}. [{he} put the seed in and covered it with soft dirt.|{he} "
        'dropped the seed in and patted the ground.] then {he} gave it some water. ["now grow!" {he} '
        "said.|{he} sat down to watch.|]",
        "[the next day {he} ran out to look.|{he} looked every morning.|one day passed, and then another.] "
        'nothing. "[why does it not grow|it must be broken|maybe it is still sleeping]," said {H}. ["seeds '
        'need time," said {F}.|{F} laughed. "you must wait."|]',
        "[{H} watered it when it was dry.|{he} sang to it every evening.|when it was cold, {he} covered it "
        "with leaves.] [days turned into weeks.|it rained, and the sun shone, and it rained again.]",
        "[then one morning, there was a tiny green leaf!|at last something small and green came up.|{F} "
        'came running. "come and look!" {fhe} called.] [{H} danced around it.|{H} was so {happy} that {he} '
        "shouted.] it grew [and grew|a little every day|taller than {H}].",
        "[but one night a big wind came.|but then a hungry {animal} came by.|but the summer was hot and "
        "dry.] [{H} tied the plant to a stick.|{H} kept it safe with a little fence.|{H} carried water to "
        "it every day.] [{F} helped.|]",
        "[by the end of summer, there were bright {flowers} all around it.|in the end, it gave {number} "
        'sweet {snacks} for everyone.|one day it opened a big {color} flower.] "[you see|good things take '
        'time|you were so patient]," said {G}.',
        "[{H} kept one seed for the next year.|{H} gave a new seed to {F}, so that {fhe} could plant it "
        "too.|and {H} smiled, because {he} had waited so well.]",
    ),
)

PICNIC = Plot(
    "a picnic",
    (
        "{time}, {H} and {F} planned a picnic {where}. [{weather}|they had talked about it all week.]",
        "[{H} packed {snacks} and {dish}.|into the basket went {snacks}, {dish}, and a bottle of juice.|{F} "
        "brought the {snacks}, and {H} brought the blanket.] [the basket was so heavy that they carried it "
        "together.|they sang all the way there.]",
        "[they put the blanket near {sight}.|they found a good spot in the shade.] [{sound}.|it was quiet "
        'and green.] "[before we eat, let us {act}|first I want to {act}|come on, let us {act}]," said {F}. '
        "so they {acted}.",
        "[but when they came back, the basket was empty!|when they came back, half of the food was "
        'gone.|then {H} looked into the basket and gasped.] "[who ate our food|where are the {snacks}|there '
        'is nothing left]?" cried {H}. [{F} pointed to some small tracks in the dirt.|a line of crumbs led '
        "into the bushes.]",
        "[they followed the trail on tiptoe.|step by step, they followed it.] [behind a bush|under a tree], "
        'they found a {stranger} with crumbs on {ahis} face. "[I am so sorry|please do not be angry|oh '
        'dear]," said the {animal}. "[I was so hungry|it smelled so good|I thought nobody wanted it]."',
        "[{H} wanted to be angry, but {he} could not.|{F} looked at {H}, and they both began to laugh.|{H} "
        'saw how thin {ahe} was.] "[next time, just ask|you could have asked us|come and sit with us]," '
        'said {H}. [they shared what was left.|"thank you," said the {animal}.]',
        "[the {animal} showed them where to find wild berries.|then the {animal} brought them a big bag of "
        "nuts.] [so there was enough for three.|and the picnic was even better than they had planned.] "
        "[they {acted2} until evening.|they went home full and {happy}.]",
    ),
)

PLOTS = (MAKING, GARDEN, COOKING, BIRTHDAY, SEED, PICNIC)
