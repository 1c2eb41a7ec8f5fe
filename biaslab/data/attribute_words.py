"""Attribute words (pairs that name a demographic) and target words (associated with its stereotypes).

Every word is lower case and occurs on one side of one pair only, so that the group of a sentence is unambiguous. "her"
corresponds to both "him" and "his": it is paired with "him", and "his" with "hers". The lists omit words with a more
frequent other meaning ("miss", "count", "master", "buck", "mark"), since words are matched without regard to meaning,
and male forms that are mostly used generically ("poet", "author", "host").
"""


def _pairs(text: str) -> tuple[tuple[str, str], ...]:
    return tuple((one, other) for one, _, other in (pair.partition("/") for pair in text.split()))


_PRONOUNS = "she/he her/him hers/his herself/himself"
_PERSONS = """
    woman/man women/men girl/boy girls/boys female/male females/males lady/gentleman ladies/gentlemen gal/guy gals/guys
    lass/lad lasses/lads mrs/mr ms/mister madam/sir feminine/masculine femininity/masculinity womanhood/manhood
    girlhood/boyhood womanly/manly girlish/boyish
"""
_KIN = """
    mother/father mothers/fathers mom/dad moms/dads mommy/daddy mama/papa sister/brother sisters/brothers daughter/son
    daughters/sons wife/husband wives/husbands girlfriend/boyfriend girlfriends/boyfriends fiancee/fiance bride/groom
    brides/grooms widow/widower widows/widowers aunt/uncle aunts/uncles niece/nephew nieces/nephews
    grandmother/grandfather grandmothers/grandfathers grandma/grandpa granddaughter/grandson granddaughters/grandsons
    stepmother/stepfather stepdaughter/stepson stepsister/stepbrother godmother/godfather goddaughter/godson
    motherhood/fatherhood motherly/fatherly maternal/paternal maternity/paternity matriarch/patriarch
    matriarchy/patriarchy matriarchal/patriarchal bridesmaid/groomsman bachelorette/bachelor sisterhood/brotherhood
    sorority/fraternity
"""
_TITLES = """
    queen/king queens/kings princess/prince princesses/princes empress/emperor duchess/duke baroness/baron
    viscountess/viscount czarina/czar sultana/sultan noblewoman/nobleman heiress/heir nun/monk nuns/monks abbess/abbot
    priestess/priest priestesses/priests deaconess/deacon convent/monastery sorceress/sorcerer enchantress/enchanter
    witch/wizard witches/wizards heroine/hero heroines/heroes demigoddess/demigod mermaid/merman
"""
_PROFESSIONS = """
    actress/actor actresses/actors waitress/waiter waitresses/waiters stewardess/steward landlady/landlord
    businesswoman/businessman businesswomen/businessmen chairwoman/chairman congresswoman/congressman
    councilwoman/councilman assemblywoman/assemblyman spokeswoman/spokesman policewoman/policeman
    policewomen/policemen saleswoman/salesman servicewoman/serviceman stateswoman/statesman sportswoman/sportsman
    horsewoman/horseman craftswoman/craftsman camerawoman/cameraman anchorwoman/anchorman fisherwoman/fisherman
    clergywoman/clergyman frontwoman/frontman handywoman/handyman stuntwoman/stuntman tradeswoman/tradesman
    washerwoman/washerman postwoman/postman repairwoman/repairman alderwoman/alderman barmaid/barman milkmaid/milkman
    headmistress/headmaster masseuse/masseur ballerina/danseur shepherdess/shepherd huntress/huntsman cowgirl/cowboy
    cowgirls/cowboys schoolgirl/schoolboy schoolgirls/schoolboys kinswoman/kinsman laywoman/layman markswoman/marksman
    swordswoman/swordsman cavewoman/caveman superwoman/superman madwoman/madman alumna/alumnus
"""
_NATIONS = """
    englishwoman/englishman frenchwoman/frenchman irishwoman/irishman dutchwoman/dutchman latina/latino latinas/latinos
    filipina/filipino
"""
_BODIES = "estrogen/testosterone ovarian/testicular uterus/prostate vagina/penis"
_ANIMALS = """
    cow/bull cows/bulls hen/rooster hens/roosters mare/stallion ewe/ram doe/stag filly/colt sow/boar lioness/lion
    tigress/tiger
"""
_NAMES = """
    mary/john elizabeth/william susan/richard jessica/michael sarah/david karen/kevin emily/daniel laura/brian
    anna/peter maria/jose julia/edward rachel/joshua amanda/andrew rebecca/matthew margaret/george nancy/charles
    lisa/steven helen/henry diana/philip alice/arthur hannah/benjamin sophia/alexander emma/liam megan/ryan
    nicole/eric fatima/ahmed aisha/hassan elena/carlos natasha/ivan
"""

#: About 200 pairs (female, male).
GENDER_PAIRS = _pairs(" ".join([_PRONOUNS, _PERSONS, _KIN, _TITLES, _PROFESSIONS, _NATIONS, _BODIES, _ANIMALS, _NAMES]))

#: The gender pairs whose words are single tokens in common vocabularies, for the prompt search.
SEARCH_PAIRS = _pairs("""
    she/he her/him herself/himself woman/man women/men girl/boy girls/boys female/male lady/gentleman mrs/mr
    mother/father mom/dad sister/brother sisters/brothers daughter/son daughters/sons wife/husband wives/husbands
    girlfriend/boyfriend bride/groom females/males aunt/uncle niece/nephew grandmother/grandfather
    queen/king princess/prince duchess/duke actress/actor heroine/hero mary/john
""")

#: Pairs (Black, white): words, places of origin and first names associated with them.
RACE_PAIRS = _pairs("""
    black/white blacks/whites african/european africans/europeans africa/europe kenya/sweden kenyan/swedish
    nigeria/norway nigerian/norwegian ghana/denmark ethiopian/danish somali/finnish jamaican/irish jamaica/ireland
    haitian/scottish haiti/scotland congo/belgium uganda/austria jamal/jake tyrone/connor malik/todd lamar/brad
    latoya/molly keisha/katie ebony/claire aaliyah/amy
""")

_OCCUPATIONS = """
    accountant analyst architect artist assistant astronaut athlete attorney baker banker barber bartender boss boxer
    broker builder butcher caregiver carpenter cashier ceo chef chemist cleaner clerk coach commander counselor dancer
    designer detective developer director doctor driver economist electrician engineer entrepreneur executive farmer
    firefighter florist guard hairdresser homemaker housekeeper inventor janitor journalist judge laborer lawyer
    librarian manager mathematician mechanic midwife miner nanny nurse nutritionist officer painter pharmacist
    philosopher physician physicist pilot plumber politician president professor programmer psychologist receptionist
    scientist secretary sheriff soldier stylist supervisor surgeon teacher technician therapist trucker tutor welder
"""
_ADJECTIVES = """
    aggressive ambitious analytical arrogant assertive attractive bossy brave brilliant caring compassionate
    competitive confident delicate dominant emotional fragile gentle hysterical independent intelligent intuitive
    irrational logical nurturing passive powerful rational sensitive shy strong stubborn submissive timid tough vain
    violent weak
"""
_ACTIVITIES = """
    baking boxing childcare cleaning coding cooking crying dancing engineering fashion fighting fishing football
    gambling gardening gossip housework hunting ironing knitting laundry leadership literature makeup mathematics
    nursing physics poetry politics programming sewing shopping wrestling
"""

#: About 160 words associated with stereotypes: occupations, adjectives, activities.
TARGETS = tuple(f"{_OCCUPATIONS} {_ADJECTIVES} {_ACTIVITIES}".split())
