"""Sentences like those of :mod:`biaslab.data.knowledge`, to find the neurons that suppression should spare.

Reported results do not use them: the two sets share no sentence and no pair of words, so that a selection that
preserves this knowledge is evaluated on words it has not seen.
"""

from biaslab.data.knowledge import Fact, read_twins

# Each line: correct word of the first sentence, of the second: sentence | sentence (a slot and a full stop follow).
_TWINS = {
    "gender": """
        stepmother, stepfather: The second wife of my father is my | The second husband of my mother is my
        actress, actor: A woman who plays parts on the stage is an | A man who plays parts on the stage is an
        heroine, hero: The woman who saves us all in the novel is its | The man who saves us all in the novel is its
        nun, monk: A woman who lives in a convent is a | A man who lives in a monastery is a
        goddess, god: The Romans worshipped Venus as a | The Romans worshipped Mars as a
        duchess, duke: The lady of the duchy is its | The lord of the duchy is its
        empress, emperor: Catherine was crowned as the Russian | Napoleon was crowned as the French
        lady, gentleman: A woman with fine manners is a real | A man with fine manners is a real
        mom, dad: Small children call their mother | Small children call their father
        daughter, son: She is a girl, so to her parents she is a | He is a boy, so to his parents he is a
        granddaughter, grandson: The girl whose grandmother I am is my | The boy whose grandmother I am is my
        girlfriend, boyfriend: He loves a woman, and she is his new | She loves a man, and he is her new
        witch, wizard: An old woman who casts spells is a | An old man who casts spells is a
        hostess, host: The woman who gives the party is its | The man who gives the party is its
        landlady, landlord: The woman to whom I pay my rent is my | The man to whom I pay my rent is my
        hers, his: The coat belongs to my daughter, so it is | The coat belongs to my son, so it is
        madam, sir: A shop assistant greets a woman with the word | A shop assistant greets a man with the word
        businesswoman, businessman: A woman who runs a company is a | A man who runs a company is a
    """,
    "ethnicity": """
        Norwegian, Cuban: Someone who was born in Oslo is | Someone who was born in Havana is
        Danish, Peruvian: The mayor of Copenhagen is | The mayor of Lima is
        Finnish, Hungarian: A writer from Helsinki is | A writer from Budapest is
        Austrian, Swiss: A banker from Vienna is | A banker from Zurich is
        Belgian, Czech: The beer from Brussels is | The beer from Prague is
        Ukrainian, Romanian: A student from Kiev is | A student from Bucharest is
        Iranian, Iraqi: The government in Tehran is | The government in Baghdad is
        Israeli, Syrian: A company with its seat in Tel Aviv is | A company with its seat in Damascus is
        Thai, Vietnamese: The street food of Bangkok is | The street food of Hanoi is
        Nigerian, Kenyan: A singer from Lagos is | A singer from Nairobi is
        Pakistani, Indonesian: A family that lives in Karachi is | A family that lives in Jakarta is
        Argentine, Chilean: The newspapers of Buenos Aires are | The newspapers of Santiago are
        Colombian, Venezuelan: The football team of Bogota is | The football team of Caracas is
        Welsh, Icelandic: A choir from Cardiff is | A choir from Reykjavik is
        Ethiopian, Moroccan: A runner from Addis Ababa is | A runner from Casablanca is
        Arabic, Hebrew: The language of Saudi Arabia is | The language of Israel is
        Serbian, Bulgarian: A painter from Belgrade is | A painter from Sofia is
    """,
    "religion": """
        rabbi, imam: A synagogue is led by a learned | A mosque is led by a learned
        Lutheran, Anglican: The state church of Denmark is | The state church of England is
        Baptist, Methodist: The church that Martin Luther King preached in was | The church that John Wesley founded was
        Sunni, Shia: Most believers in Saudi Arabia are | Most believers in Iran are
        Mormon, Amish: The great temple in Salt Lake City is | The farmers who drive buggies in Pennsylvania are
        atheists, believers: People who say that there is no God are | People who trust in God are
        Bible, Quran: The gospels are part of the | The suras are part of the
        church, mosque: A building with a steeple and an altar is a | A building with a minaret is a
        Christmas, Hanukkah: The birth in Bethlehem is celebrated at | The candles of the menorah are lit at
        Jesus, Muhammad: The carpenter's son from Nazareth was | The merchant from Mecca who became a prophet was
        Moses, Buddha: The man who led Israel out of Egypt was | The man who found enlightenment under a fig tree was
        Taoism, Shinto: The teaching of Laozi is called | The ancient faith of Japan is called
        Diwali, Passover: The festival of lights in India is called | The feast of the exodus from Egypt is called
        cross, crescent: The sign on top of a steeple is the | The sign on top of a minaret is the
        missionary, pilgrim: Someone who is sent abroad to preach is a | Someone who travels to a shrine is a
    """,
    "occupation": """
        plumber, electrician: The person who mends the water pipes is the | The person who lays the power cables is the
        poet, composer: A person who writes verses is a | A person who writes symphonies is a
        singer, drummer: The person with the microphone in a band is the | The person with the sticks in a band is the
        cook, gardener: The person who makes the soup is the | The person who waters the roses is the
        firefighter, lifeguard: A person who puts out fires is a | A person who pulls swimmers out of the sea is a
        architect, engineer: A person who designs houses is an | A person who designs machines is an
        astronaut, athlete: A person who flies to the moon is an | A person who trains for the Olympic Games is an
        fisherman, shepherd: A person who catches cod is a | A person who looks after sheep is a
        programmer, translator: A person who writes software is a | A person who puts books into another language is a
        surgeon, pharmacist: The person who operates on hearts is the | The person who sells medicine in a shop is the
        secretary, accountant: The person who types the letters is the | The person who does the firm's taxes is the
        president, mayor: The head of a republic is its | The head of a town is its
        sculptor, jeweler: A person who carves marble is a | A person who makes golden rings is a
        detective, bodyguard: A person who solves murders is a | A person who protects a celebrity is a
        referee, coach: The person who whistles for a foul is the | The person who trains the football team is the
        clown, magician: The person with the red nose is the | The person who pulls rabbits out of a hat is the
        cashier, porter: The person who takes the money is the | The person who carries the bags is the
        biologist, physicist: A scientist who studies plants is a | A scientist who studies atoms is a
    """,
    "age": """
        teen, toddler: Someone who is sixteen is a | Someone who is two and learns to walk is a
        kids, seniors: Visitors below the age of twelve are | Visitors above the age of seventy are
        child, pensioner: A person who is seven is still a | A person who has stopped working at seventy is a
        childhood, retirement: The first ten years of a life are | The years after the last day of work are
        junior, senior: If they have one name, the son is the | If they have one name, the father is the
        pupil, graduate: Someone who goes to primary school is a | Someone who has left university with a degree is a
        aged, youthful: A face full of wrinkles looks | A face without any wrinkles looks
        grownup, kid: A person of forty is a | A person of nine is a
        minor, retiree: Someone who is too small to vote is a | Someone who lives on a pension is a
        adolescent, octogenarian: A person in puberty is an | A person of eighty-four is an
        twenties, seventies: A person of twenty-five is in the | A person of seventy-five is in the
        teens, fifties: My sister is fifteen, so she is in her | My aunt is fifty-four, so she is in her
        kindergarten, college: A child of five goes to | A student of twenty goes to
    """,
}

FACTS_TO_SPARE: tuple[Fact, ...] = read_twins(_TWINS)
