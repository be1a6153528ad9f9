"""German words and sentence patterns of the prose generator: a mountain village with a sawmill, an
observatory and a boarding school. Written for this project; no digits; part of version 1 of the
text, so it never changes.

Every pattern is grammatical with every choice of words: things, topics, sounds and feelings are
feminine or neuter singular, whose nominative and accusative are one, and their dative is made here;
trades are subjects only; places and actions are listed in each form that a pattern needs; views and
weather are main clauses and stand where one may stand. Knows nothing of scenes.
"""

from __future__ import annotations

import re

from longctx.eval.texts.prose_lists import split

_DATIVE = {"die": "der", "das": "dem", "eine": "einer", "ein": "einem"}


def _dative(phrases: tuple[str, ...]) -> tuple[str, ...]:
    """Of feminine and neuter singulars: the article, and the adjectives before the noun."""
    found = []
    for phrase in phrases:
        article, _, rest = phrase.partition(" ")
        noun = re.search("[A-ZÄÖÜ]", rest)
        if article not in _DATIVE or not noun:
            found.append(phrase)  # without an article there is nothing to change
            continue
        adjectives = re.sub(r"e[sn]?\b", "en", rest[: noun.start()])
        found.append(f"{_DATIVE[article]} {adjectives}{rest[noun.start() :]}")
    return tuple(found)


def _form(index: int, text: str) -> tuple[str, ...]:
    return tuple(entry.split("/")[index].strip() for entry in split(text))


NAMES = split("""Adelheid|Albin|Alwine|Anton|Arnulf|Barbara|Benedikt|Bertram|Burkhard|Cäcilie|Christel|Dankwart|Dietlind|Ekkehard|Elfriede|Emmeran|Erwin|Eugenie|Ferdinand|Franziska|Frieder|Gerlinde|Gisela
|Gottlieb|Gundula|Hartmut|Hedwig|Heinrich|Hermine|Irmgard|Isidor|Jakob|Johanna|Josefa|Kaspar|Kilian|Konrad|Kreszenz|Leonhard|Liesl|Lorenz|Ludmilla|Magnus|Mathilde|Meinrad|Nepomuk|Notburga|Oswald|Ottmar|Pankraz
|Philippine|Rainer|Reinhild|Rupert|Sebald|Severin|Sieglinde|Thekla|Tilman|Traudl|Ursula|Valentin|Veit|Walburga|Wenzel|Wilhelmine|Zenzi""")
# Subjects only.
TRADES = split("""der Apotheker|die Sennerin|der Sägewerker|die Lehrerin|der Bergführer|die Wirtin|der Sternwart|die Hebamme|der Hufschmied|die Schneiderin|der Postbote|die Kräuterfrau|der Schreiner|die Köchin
|der Glaser|die Bibliothekarin|der Mesner|die Näherin|der Uhrmacher|die Müllerin|der Fuhrmann|die Orgelbauerin|der Tierarzt|die Töpferin|der Dachdecker|die Weberin|der Förster|die Krämerin|der Geigenbauer
|die Wäscherin|der Steinmetz|die Buchbinderin|der Wegmacher|die Seilbahnwärterin|der Hausmeister|die Imkerin|der Nachtwächter|die Gärtnerin|der Vermesser|die Malerin""")
_PLACES = """im alten Sägewerk/ins alte Sägewerk|auf dem Heuboden/auf den Heuboden|in der Sternwarte/in die Sternwarte|hinter der Käserei/hinter die Käserei|auf dem Kirchhof/auf den Kirchhof
|in der Gaststube/in die Gaststube|an der Talstation/an die Talstation|im Speisesaal des Internats/in den Speisesaal des Internats|auf der oberen Alm/auf die obere Alm|im Schulgarten/in den Schulgarten
|am Wehr/ans Wehr|auf der Holzbrücke/auf die Holzbrücke|in der Schmiede/in die Schmiede|im Pfarrhaus/ins Pfarrhaus|unter der großen Linde/unter die große Linde|im Postamt/ins Postamt
|auf dem Viehmarkt/auf den Viehmarkt|in der Backstube/in die Backstube|am Dorfbrunnen/an den Dorfbrunnen|im Kräutergarten/in den Kräutergarten|in der Bibliothek/in die Bibliothek
|auf dem Dachboden der Schule/auf den Dachboden der Schule|in der Glashütte/in die Glashütte|vor dem Rathaus/vor das Rathaus|im Kuhstall/in den Kuhstall|in der Schutzhütte/in die Schutzhütte
|am Steinbruch/an den Steinbruch|im Eiskeller/in den Eiskeller|auf dem Tanzboden/auf den Tanzboden|in der Sakristei/in die Sakristei|neben der Mühle/neben die Mühle|im Musikzimmer/ins Musikzimmer
|auf der Passhöhe/auf die Passhöhe|im Gemeindearchiv/ins Gemeindearchiv|in der Werkstatt des Geigenbauers/in die Werkstatt des Geigenbauers|am Bergsee/an den Bergsee|in der Waschküche/in die Waschküche
|auf der Sonnenterrasse/auf die Sonnenterrasse|im Obstkeller/in den Obstkeller|vor der Kapelle/vor die Kapelle|im Forsthaus/ins Forsthaus|hinter dem Spritzenhaus/hinter das Spritzenhaus
|in der Krämerei/in die Krämerei|am Hohlweg/an den Hohlweg|im Wartesaal/in den Wartesaal|unter dem Glockenturm/unter den Glockenturm|im Gasthof zum Steinbock/in den Gasthof zum Steinbock
|auf der Gemeindewiese/auf die Gemeindewiese|im Bootshaus/ins Bootshaus|an der Furt/an die Furt"""
_TOPICS = split("""die neue Brücke|das verschwundene Fernrohr|die Hochzeit der Zwillinge|das Testament des Glasers|die Wahl des Bürgermeisters|das undichte Schuldach|die Versteigerung des Klaviers
|das Wasser der oberen Quelle|die Lawine von damals|das Fest der Holzknechte|die Stimmung der Orgel|das Rezept für Kletzenbrot|die Schließung der Seilbahn|das Alter der Linde|die verlorene Wette
|das Verhalten der Gämsen|die Lohntüte des Knechts|das fremde Pferd|die Rückkehr der Schwalben|das Gerücht von der Eisenbahn|die Grenze zum Nachbardorf|das verbotene Theaterstück|die Krankheit der Bienen
|das Erbe der Wirtin|die Farbe der Rathaustür|das Ausbleiben der Post|die Tiefe des Bergsees|das Läuten bei Nacht|die Pacht der Gemeindewiese|das Geheimnis des blauen Glases|die Schuld aus dem Hungerjahr
|das Verschwinden des Wetterhahns|die Prüfung der Internatsschüler|das Schneiden der Obstbäume|die Steuer auf Hunde|das Lied mit den vielen Strophen|die Reise ans Meer|das Schreiben aus der Hauptstadt
|die Länge der Trauerzeit|das Recht auf Brennholz|die Ankunft des Zirkus|das Bild ohne Rahmen|die Heilkraft der Arnika|das Gewicht der großen Glocke|die Schreibweise eines alten Namens|das Handwerk des Lügens
|die Klugheit der Krähen|das zugemauerte Fenster|die Sternschnuppe vom Vorabend|das leere Grab""")
_THINGS = split("""eine Kiste mit Messinggewichten|ein Heft mit grünem Einband|eine Landkarte mit versengter Ecke|ein kaputtes Barometer|eine Schachtel voller Knöpfe|ein Bündel Briefe|eine leere Voliere
|ein Glas Honig|eine Geige ohne Saiten|ein Säckchen Samen|eine Laterne mit blauem Schirm|ein Fernrohr aus Messing|eine Truhe mit doppeltem Boden|ein Paar geliehener Stiefel|eine gesprungene Glocke
|ein Modell der Seilbahn|eine ausgestopfte Eule|ein Fass Most|eine Rolle Draht|ein Schachbrett ohne Könige|eine Apothekerwaage|ein Rad Bergkäse|eine Kanne Lampenöl|ein Bild ohne Unterschrift
|eine Pfeife aus Kirschholz|ein Bund rostiger Schlüssel|eine graue Wolldecke|ein Stück Bergkristall|eine Gans im Korb|ein Brett voller Nägel|eine Tasse mit Goldrand|ein Liederbuch in fremder Sprache
|eine Säge ohne Griff|ein Hufeisen|eine Spule roten Garns|ein Tintenfass aus Zinn|eine halb abgebrannte Kerze|ein Fläschchen Enzianschnaps|eine Sense ohne Stiel|ein Herbarium|eine Schiefertafel
|ein Paar Schneeschuhe|eine Kuckucksuhr ohne Kuckuck|ein Netz voller Nüsse|eine gefaltete Fahne|ein Rechnungsbuch|eine Zither mit verstimmten Saiten|ein Seil aus Hanf|eine Schale Quitten
|eine Dachschindel mit Inschrift|eine störrische Kompassnadel|ein Hirschgeweih|eine Spieldose|ein Bienenhäuschen|eine Trompete mit Beule|ein Wörterbuch ohne Deckel|eine Schneekugel|ein Nudelholz
|eine Postkarte ohne Absender|ein Glöckchen""")
_FEELINGS = split("""eine stille Erleichterung|eine Art Neid|eine alte Müdigkeit|eine plötzliche Reiselust|eine kleine, törichte Freude|eine seltsame Scheu|eine große Ruhe|Heimweh|eine leise Wehmut
|ein Gefühl von Stolz|eine unvernünftige Hoffnung|eine zähe Langeweile|eine schwer erklärbare Zärtlichkeit|das Glück einer fertigen Liste|eine gewisse Abneigung|eine Spur von Reue|Dankbarkeit
|eine namenlose Furcht|ein Bedürfnis nach Gesellschaft|eine gewisse Sturheit|Ungeduld|eine etwas hohle Heiterkeit|das Behagen eines Sonntags|Mitleid|Neugier|eine sonderbare Vertrautheit|das Gewicht der Jahre
|Trotz|eine jähe Kühnheit""")
_SOUNDS = split("""das Knarren des Mühlrads|eine ferne Ziehharmonika|das Läuten der Schulglocke|das Beil eines Nachbarn|das Rauschen des Wildbachs|ein Fuhrwerk auf den Steinen|das Gurren der Tauben
|das Scharren eines Stuhls|das Zischen der Lampe|die Probe des Kirchenchors|das Hämmern des Schmieds|das Summen des Kessels|das Ticken mehrerer Uhren|das Kreischen der Säge|das Klatschen nasser Wäsche
|das Gelächter aus der Küche|das Klappern eines Fensterladens|das Gemurmel des Marktes|das Plätschern der Dachrinne|eine unsichere Flöte|das Heulen des Windes im Kamin|das Surren der Seilbahn
|das Horn des Nachtwächters|das Echo aus dem Steinbruch|das Brummen der Bienen|das Gebimmel der Kuhglocken|das Jodeln vom Gegenhang|das Knirschen von Schritten im Kies|das Schnauben eines Pferdes
|die Stimme aus dem Nebenzimmer|das Blöken der Schafe""")
# Past tense, participle with `haben`, infinitive.
_ACTIONS = """schloss die Läden/die Läden geschlossen/die Läden schließen|zählte noch einmal die Säcke/noch einmal die Säcke gezählt/noch einmal die Säcke zählen
|schrieb alles auf/alles aufgeschrieben/alles aufschreiben|heizte den Ofen an/den Ofen angeheizt/den Ofen anheizen|nahm den längeren Weg/den längeren Weg genommen/den längeren Weg nehmen
|beglich die Rechnung/die Rechnung beglichen/die Rechnung begleichen|öffnete die Hintertür/die Hintertür geöffnet/die Hintertür öffnen|räumte die Regale leer/die Regale leer geräumt/die Regale leer räumen
|wog das Paket/das Paket gewogen/das Paket wiegen|wusch die Pinsel aus/die Pinsel ausgewaschen/die Pinsel auswaschen
|stellte die Stühle im Kreis auf/die Stühle im Kreis aufgestellt/die Stühle im Kreis aufstellen|prüfte das Schloss/das Schloss geprüft/das Schloss prüfen|kehrte den Hof/den Hof gekehrt/den Hof kehren
|faltete das Tischtuch/das Tischtuch gefaltet/das Tischtuch falten|zog die Uhr auf/die Uhr aufgezogen/die Uhr aufziehen|holte eine zweite Lampe/eine zweite Lampe geholt/eine zweite Lampe holen
|hängte die Schlüssel an den Nagel/die Schlüssel an den Nagel gehängt/die Schlüssel an den Nagel hängen|kostete die Suppe/die Suppe gekostet/die Suppe kosten
|schärfte beide Messer/beide Messer geschärft/beide Messer schärfen|band das Kalb los/das Kalb losgebunden/das Kalb losbinden|versiegelte den Umschlag/den Umschlag versiegelt/den Umschlag versiegeln
|rückte den Tisch ans Fenster/den Tisch ans Fenster gerückt/den Tisch ans Fenster rücken|goss den Rest vom Most ein/den Rest vom Most eingegossen/den Rest vom Most eingießen
|fütterte die Hühner/die Hühner gefüttert/die Hühner füttern|läutete zweimal/zweimal geläutet/zweimal läuten|versteckte den Brief im Kalender/den Brief im Kalender versteckt/den Brief im Kalender verstecken
|suchte eine Kerze/eine Kerze gesucht/eine Kerze suchen|verbesserte einen Fehler/einen Fehler verbessert/einen Fehler verbessern|bezahlte den Fuhrmann/den Fuhrmann bezahlt/den Fuhrmann bezahlen
|wendete die Matratze/die Matratze gewendet/die Matratze wenden|pfiff nach dem Hund/nach dem Hund gepfiffen/nach dem Hund pfeifen|wechselte den Docht/den Docht gewechselt/den Docht wechseln
|pflanzte die Zwiebeln ein/die Zwiebeln eingepflanzt/die Zwiebeln einpflanzen|wischte die Tafel ab/die Tafel abgewischt/die Tafel abwischen
|strich eine Zeile durch/eine Zeile durchgestrichen/eine Zeile durchstreichen|schüttelte den Regenschirm aus/den Regenschirm ausgeschüttelt/den Regenschirm ausschütteln
|lehnte die zweite Tasse ab/die zweite Tasse abgelehnt/die zweite Tasse ablehnen|spielte eine Tonleiter/eine Tonleiter gespielt/eine Tonleiter spielen
|trug das Brennholz herein/das Brennholz hereingetragen/das Brennholz hereintragen|polierte die Beschläge/die Beschläge poliert/die Beschläge polieren
|gab die Leiter zurück/die Leiter zurückgegeben/die Leiter zurückgeben|unterschrieb ungelesen/ungelesen unterschrieben/ungelesen unterschreiben|zog die Vorhänge zu/die Vorhänge zugezogen/die Vorhänge zuziehen
|deckte den Brunnen ab/den Brunnen abgedeckt/den Brunnen abdecken|horchte an der Wand/an der Wand gehorcht/an der Wand horchen|goss die Geranien/die Geranien gegossen/die Geranien gießen
|packte den Koffer/den Koffer gepackt/den Koffer packen|flickte einen Sack/einen Sack geflickt/einen Sack flicken|knackte eine Nuss/eine Nuss geknackt/eine Nuss knacken
|zeichnete einen Plan vom Keller/einen Plan vom Keller gezeichnet/einen Plan vom Keller zeichnen|las den Aushang vor/den Aushang vorgelesen/den Aushang vorlesen
|verlangte den Wirt/den Wirt verlangt/den Wirt verlangen|setzte sich auf die Stufen/sich auf die Stufen gesetzt/sich auf die Stufen setzen
|schnitt noch eine Scheibe Brot ab/noch eine Scheibe Brot abgeschnitten/noch eine Scheibe Brot abschneiden|warf die Schalen dem Schwein vor/die Schalen dem Schwein vorgeworfen/die Schalen dem Schwein vorwerfen
|schob den Karren unter das Vordach/den Karren unter das Vordach geschoben/den Karren unter das Vordach schieben|rieb die Fensterscheibe blank/die Fensterscheibe blank gerieben/die Fensterscheibe blank reiben
|rückte den Hut zurecht/den Hut zurechtgerückt/den Hut zurechtrücken"""
WORDS = {
    "where": _form(0, _PLACES),
    "whither": _form(1, _PLACES),
    "topic": _TOPICS,  # accusative: behind über, um, für, ohne
    "dtopic": _dative(_TOPICS),  # behind von, mit, nach, bei
    "thing": _THINGS,
    "dthing": _dative(_THINGS),
    "feeling": _FEELINGS,
    "dfeeling": _dative(_FEELINGS),
    "sound": _SOUNDS,
    "dsound": _dative(_SOUNDS),
    "deed": _form(0, _ACTIONS),
    "done": _form(1, _ACTIONS),
    "todo": _form(2, _ACTIONS),
    "hour": split("""früh am Morgen|gegen Mittag|in der trägen Stunde nach dem Essen|am späten Nachmittag|in der Dämmerung|lange nach dem Abendbrot|vor dem ersten Läuten|am letzten Abend der Kirchweih
|an einem Sonntag im November|zwischen zwei Regenschauern|in der dritten Frostwoche|am Tag nach der Wahl|während der Chorprobe|kurz vor dem Anzünden der Lampen|am Ende eines langen Winters
|nach der letzten Seilbahnfahrt|am Morgen der Hochzeit|mitten in der Heuernte|zur Zeit des Almabtriebs|am Vorabend des Festes|kurz vor Mitternacht|gleich nach der Schneeschmelze|in den ersten warmen Tagen
|nach einer Woche Regen|nach Schulschluss|am Markttag|in der Stille nach dem Sturm|um die Jahreswende|am zweiten Tag der Reise|nach dem Melken|zwischen Heuernte und Obsternte|in aller Herrgottsfrühe
|bei Vollmond|am Rosenmontag|zur Vesperzeit|im Halbdunkel"""),
    "weather": split("""es regnete fein und beharrlich|der Nebel hob sich nicht|der Wind hatte auf Ost gedreht|der erste Schnee lag auf den Simsen|die Hitze stand in der Gasse wie eine Mauer
|die Wolken hingen tief|das Licht war klar und ziemlich kalt|hinter den Bergen grollte es|der Bach war gestiegen|die Luft roch nach Harz und nasser Wolle|eine blasse Sonne gab ihr Bestes|das Eis brach auf
|Hagel prasselte auf die Schindeln|die Schwalben flogen niedrig|Frost lag auf allen Scheiben|der Staub wollte sich nicht legen|der Föhn rüttelte an den Dächern|die Dachrinnen liefen über
|die Sterne waren ungewöhnlich hell|in den Mulden lag Dunst|die ersten Blätter fielen|der Abend war mild für die Jahreszeit|die Pfützen waren zugefroren|der Himmel war grau wie Schiefer
|vom Pass her zog ein Gewitter auf|der Schlamm ging bis zu den Knöcheln|im Schatten war kaum noch Platz|der Mond hatte einen Hof|das Tauwetter hatte eingesetzt|es hatte seit Wochen nicht geregnet
|der Schnee knirschte unter den Sohlen|ein warmer Wind kam aus dem Tal|es schneite lautlos"""),
    "manner": split("""geduldig|mit einigem Zögern|ganz langsam|mit gespielter Ruhe|etwas zu hastig|ohne aufzublicken|mit sichtlichem Vergnügen|zum zweiten Mal in dieser Woche|gegen jeden Rat
|mit großer Vorsicht|lauter als nötig|halb im Scherz|mit großer Genauigkeit|mit einem Seufzer|ohne jede Eile|so höflich wie möglich|mit einem Blick zur Tür|in bester Laune|aus reiner Gewohnheit
|mit einer Hand in der Tasche|ohne rechte Ordnung|unter vielen Unterbrechungen|zur allgemeinen Überraschung|beinahe zärtlich|trotz des Lärms|bei offenem Fenster|unter Protest|mit ungewohnter Festigkeit
|wie im Traum|mit vollem Mund|fast heimlich|mit ernster Miene|der Form halber|mit sanftem Nachdruck"""),
    # Main clauses: in quotation marks, or behind a colon, a comma or denn.
    "view": split("""niemand stellt die richtige Frage|die einfachste Erklärung ist meistens die wahre|Geduld ist eine Art von Klugheit|das Dorf ändert sich weniger, als die Leute sagen
|jede Reparatur beginnt mit dem Zerlegen|ein hastiges Versprechen bleibt ein Versprechen|der alte Brauch hat einen Grund|man soll messen, ehe man streitet
|in einer Entschuldigung steckt mehr Arbeit als in einem Zaun|die Jungen sind nicht schlechter als früher|die meisten Geheimnisse hat nur niemand aufgeschrieben|das Glück wird zu viel gelobt
|ein gutes Werkzeug überlebt jedes gute Argument|auch Schweigen kann unhöflich sein|eine Uhr kommt leichter in Gang als ein Gespräch|die Armen merken sich Preise besser als Gesichter
|ein Gast soll gehen, solange die Lampe noch brennt|nichts wiegt so schwer wie Geliehenes|auf dem Heimweg ist jede Straße kürzer|Fremde sehen, was Nachbarn verzeihen|das Wasser findet immer das schwache Brett
|in einer kleinen Stube redet man ehrlicher|ein schlimmer Winter lehrt mehr als zehn gute Sommer|was allen gehört, das kehrt keiner|alte Freunde brauchen wenig Worte und viel Suppe
|Karten sind freundlicher als Berge|das beste Brot kommt aus mürrischen Händen|Schulden wachsen im Dunkeln|Hunde urteilen besser als Richter|das Gesetz ist ein Zaun mit vielen Toren
|was man langsam tut, tut man selten zweimal|Kinder hören, was ihnen keiner sagt|der Bach war vor der Brücke da|eine morsche Tür soll man nicht streichen|ein Scherz ist eine Art anzuklopfen
|das Gedächtnis führt schlecht Buch|manchem Brief tut die Verspätung gut|wer bei der Arbeit singt, zählt keine Stunden|gute Nachrichten können bis nach der Suppe warten|einen kurzen Besuch gibt es nicht
|eine verschlossene Schublade ist eine Einladung|das Wetter ist das einzige harmlose Thema|weder Kessel noch Richter lassen sich drängen|besser ein Zweifel als eine Lüge
|die Vergangenheit besteht vor allem aus Möbeln|die kürzeste Predigt bleibt am längsten im Ohr|dicke Mauern hüten schlecht Geheimnisse|wer nach dem Weg fragt, ist schon halb da|der Berg läuft keinem davon
|am Fernrohr wird jeder bescheiden"""),
}
# Slots that hold one list in several forms: a pattern uses one of them.
FORMS = (
    ("where", "whither"),
    ("topic", "dtopic"),
    ("thing", "dthing"),
    ("feeling", "dfeeling"),
    ("sound", "dsound"),
    ("deed", "done", "todo"),
)
PATTERNS = tuple(
    """{A} kam {hour} mit {dthing} {whither}.
Es war Sonntag, und {weather}; {where} lag nur noch {thing}.
„{View}“, sagte {a} und {deed}.
{B} hatte {thing} mitgebracht, und {where} verlor niemand ein Wort darüber.
Sie sprachen {manner} über {topic} und danach über {topic2}.
Niemand {where} wusste noch, von wem {thing} stammte.
{A} {deed} und {deed2}, und das {manner}; {weather}.
{B} fragte {manner}: „Stimmt das, was man über {topic} hört?“
Die Antwort, als sie kam, handelte von {dtopic} und nicht von {dtopic2}.
{Where} stand ein langer Tisch, und darauf lag allerlei: {thing}, {thing2} und ein Zettel.
Falls {a} überrascht war, sah man es nicht; {b} {deed}.
Am meisten wunderte sich {b} über {topic}, weniger über {topic2}.
{A} meinte: „{View}“, und {b} hielt dagegen: „{View2}“, und so ging das seit Jahren.
Der Gang {whither} dauerte länger als sonst, denn {weather}.
In jenen Jahren redete man in jeder Küche über {topic}, meistens {manner}.
{B} lachte {manner} und {deed}.
So saßen sie bis zum Abend {where} und redeten über {topic}.
Dann war es {where} still, und man hörte {sound}.
Vor dem Heimweg wollte {a} noch {todo}, denn {view}.
„Lieber würde ich über {topic} reden“, antwortete {b} {manner}.
{Where} hatte jemand mit Kreide auf ein Brett geschrieben: „{View}.“
Keiner vermisste {thing}, bis {c} danach fragte und {tc} {manner} lachte.
{C} hatte alles mit angehört, {deed} und sagte: „{View}.“
Es war leicht, {c} die Schuld an {dtopic} zu geben, und manche taten es {manner}.
Später, als niemand mehr von {dtopic} sprach, bekam {b} von {a} {thing}.
„Du hast {thing} in der Tasche“, bemerkte {c}, „und redest über {topic}.“
{A} dachte an ein anderes Jahr, in dem {b} {hour} ohne jeden Grund {thing} verschenkt hatte.
Wer {topic} verstehen will, muss {hour} einmal {where} gesessen haben.
{Where} hörte man {sound}.
{A} spürte {feeling}, aber {b} {deed}.
Mit {dfeeling} und {dthing} ging {b} {whither}.
„Hör nur“, sagte {c}; es war bloß {sound}.
Es gibt Leute, die sagen: {View}; {a} gehörte dazu, und {ta} auch.
Als {b} mit {dthing} zurückkam, wusste {a}: Die Sache mit {dtopic} war erledigt.
{Where} begegnete ihnen niemand außer {c}, und {c} {deed}.
„{Weather}“, sagten die einen; „{Weather2}“, sagten die anderen.
{A} kaufte {hour} {thing} und bereute es schon unterwegs {whither}.
Ohne {thing} wäre {b} nie {whither} gegangen.
{Ta} und {tb} waren sich über {topic} einig, was selten vorkam.
{Where} fühlte sich {a} nicht wohl: Dort überkam einen leicht {feeling}.
„Und was ist mit {dtopic}?“, fragte {c}; aber {b} {deed}.
Unterwegs {whither} zählten sie Fuhrwerke und stritten über {topic}.
{B} nahm {thing} vom Regal, zögerte und wählte dann {manner} doch {thing2}.
{Where} sagt man: {View}, und außerdem: {View2}.
{A} hatte schlecht geschlafen: die ganze Nacht {sound}, und dann noch die Sorge um {topic}.
Zweierlei wusste man von {c}: Über {topic} redete {c} gern, und über {thing} ging nichts.
„Gib mir {thing}“, sagte {b}, „dann erzähle ich dir alles über {topic}.“
{Weather}, und alle gingen {whither}.
{A} wollte {thing}; es gab {thing2} und ein paar gute Ratschläge.
{Tb} nickte {manner}, denn {view}.
{Where} sah man {hour} manchmal {c} mit {dthing} unter dem Arm.
{Tc} fragte {manner}, was {thing} hier solle, aber {a} {deed}.
Unterwegs sprach man wenig von {dtopic}, und das Wenige {manner}.
{A} wäre lieber {where} geblieben, denn dort hörte man wenigstens {sound}.
Dreißig Jahre lang bewahrte {c} {where} {thing} auf und fragte nie nach dem Zweck.
Es fing mit {dtopic} an und hörte, wie so oft, mit {dtopic2} auf.
Die Nachricht von {dtopic} kam {hour} {whither}.
{A} {deed}; {b} {deed2}; {c} tat nichts und wurde dafür gelobt.
„{View}“, sagte {ta} {manner} zu jedem, der mit {dthing} ankam.
{Hour} trafen sich {a} und {b} noch einmal {where}.
Kaum hatte {a} {done}, da hörte man {where} {sound}.
{B} erzählte {manner} von {dtopic}, und {c} empfand dabei {feeling}.
Als Erstes sprach {tb} {hour} über {topic}, und zwar {where}.
Keiner konnte sagen, warum man {where} {thing} hütete und {where2} {thing2}.
„Immerhin“, sagte {a} {manner}, „{view}.“
Sie fanden {c} {where}, ganz mit {dthing} beschäftigt.
{Ta} hatte nur eine Regel: {hour} kein Wort über {topic}.
Plötzlich hörte man {sound}, und {b} {deed}.
Über {topic} sprach {a} {manner}, über {topic2} gar nicht.
{A} schrieb {b} einen Brief über {topic} und legte {thing} dazu.
Im Brief von {c} stand nur: {Weather}, und {view}.
{C} überlegte {manner}: „{View}; also geht uns das mit {dtopic} nichts an.“
{A} suchte bis zum Abend den Weg {whither}, und am Ende hieß es nur: {View}.
Während alle über {topic} redeten, dachte {a} mit {dfeeling} an {b}.
Die Kinder liefen {whither} und wollten {thing} sehen.
Jedes Jahr ging {tc} {hour} {whither}, und niemand wusste, warum.
{A} erbte alles: {thing}, {thing2} und {feeling}.
„Den ganzen Tag höre ich {sound}“, klagte {ta}, „und keiner tut etwas.“
Eher hätte {b} {thing} hergegeben als zugegeben: {View}.
Auf dem Tisch lag {thing}, daneben {thing2} und eine Notiz über {topic}.
Nur {c} sah den Zusammenhang zwischen {dtopic} und {dthing}.
Auch der Neuschnee hielt {a} nicht davon ab, {hour} {whither} zu gehen.
{Where} sprach man {manner} über {topic}; {b} hörte zu.
Zuerst hatte {a} {done}, später auch {b} und sogar {c}, und das alles {manner}.
{C} kam {manner} herein und stellte {thing} auf den Boden.
{Where} war etwas, das {b} {hour} {feeling} spüren ließ.
„Lacht nur“, sagte {tb} {manner}, „aber {view}.“
In der Ecke lag {thing}, und keiner sprach von {dtopic}, ohne dorthin zu zeigen.
{A} hatte einen Bruder, der alles über {topic} wusste und nichts über {topic2}.
Nicht {sound} hatte {c} geweckt, sondern {feeling}.
Von {dthing} fehlte jede Spur; gesucht wurde {hour} sogar {where}.
Die einen gingen wegen der Aussicht {whither}, die anderen der Ruhe wegen, {b} aus Liebe zu {dsound}.
„Erzähl noch einmal von {dtopic}“, bat {a}, aber {b} wollte zuerst {todo}.
{Tc} saß {hour} {where} und ging, sobald jemand auf {topic} kam.
{B} wollte {thing} weder loben noch hergeben, denn {view}.
{Weather}; {a} {deed}; {hour} kam niemand mehr.
Wer {manner} {todo} kann, der verdient {thing}, dachte {c}.
{A} hörte {sound} und darunter, ganz leise, {sound2}.
Für {topic} hätte {b} sogar {done}.
Von {dtopic} blieb nur {thing}, und dazu {feeling}.
Je länger {c} über {topic} redete, desto lieber wollte {a} {todo}.
Zu Hause, erzählte {ta} {manner}, hatte {thing} einen Ehrenplatz.
„Warum gerade {where}?“, fragte {b}, und {a} erwiderte: „{View}.“
{Hour} spielten {tb} und {tc} {where} Karten; {weather}.
{A} und {b} empfanden {feeling}, wenn auch aus anderen Gründen: Es ging um {topic} und um {topic2}.
Inzwischen war es {where} leer, nur {thing} stand noch da.
Der Grund, erklärte {a} {manner}, lag bei {dtopic}.
{B} ging {where} {manner} auf und ab, als hinge alles von {dthing} ab.
„Es muss {hour} gewesen sein“, sagte {c}, „denn ich erinnere mich an {sound}.“
{A} stellte {thing} ans Fenster und legte {manner} noch {thing2} dazu.
Wer einmal {thing} {whither} getragen hat, der weiß: {View}.
Sie verabredeten sich {where}, und zwar {hour}, und {b} sollte {thing} mitbringen.
Über {topic} wurde nichts entschieden; {b} {deed}, und {tc} ging schlafen.
{A} lobte die Aussicht {where}, {b} die Ruhe {where2}, und beide dachten an {topic}.
Jeder, der wollte, bekam {thing}, sagte {ta} {manner}, aber keiner sollte {todo}.
{Where} entdeckte {tb} unter einer Bank {thing}.
„{View}“, wiederholte {a}, „und das sage ich nicht wegen {c}, sondern mit Blick auf {topic}.“
Am Ende hatte {b} wirklich {done}, und wer {topic} kannte, den wunderte das nicht.
{C} konnte {sound} nicht hören, ohne dass die Gedanken {whither} wanderten.
Als man nach {dtopic} fragte, zeigte {ta} zur Antwort {thing}.
{A} ging {whither}, {b} blieb bei {dthing}, und {c} {deed}.
Als Erstes kam {tc} {whither}, mit {dthing} und mit {dfeeling}.
„Nicht {hour}“, sagte {b}, „und nicht mit {dthing}.“
{Where} stand eine Tür offen, und man hörte {sound}.
Alles, was {a} über {topic} wusste, hatte {tb} erzählt.
{Weather}, also musste {c} {todo} und las danach etwas über {topic} vor.
Es freute {b}, dass {where} noch immer {thing} stand.
Was {a} {where} sah, kann unmöglich {thing} gewesen sein, denn {weather}.
{A} träumte oft davon, {where} zu sitzen, immer {hour} und immer mit {dsound}.
Der Streit hatte mit {dthing} begonnen; {ta} und {tc} wussten es noch genau.
Statt einer Antwort hatte {b} nur {manner} {done}.
Nach {dtopic} blieb wenig zu besprechen, höchstens noch ein Wort zu {dtopic2}.
{C} bewunderte, was {a} alles geschafft hatte: erst {done} und dann noch {done2}.
„Hat jemand {thing} gesehen?“, rief {tb} {manner}, noch ehe man {where} saß.
Zweimal hatte {b} {done}, und zweimal war {sound} die einzige Antwort.
Sie aßen {where}, und zwar {manner}, und niemand rührte {thing} an.
Wer {hour} {where} stand, der hörte {sound}.
{A} tauschte einmal {thing} gegen {thing2} und nannte es Weisheit.
Es kam selten vor, dass {b} {done} hatte; schließlich heißt es: {View}.
{Tc} hatte {topic} kommen sehen und empfand dabei {feeling}.
„Dann gehen wir {whither}“, beschloss {a}, „und nehmen {thing} mit.“
Unter {dthing} fand sich ein Blatt über {topic}, von der Hand von {b}.
{B} gab keine Antwort, denn man hörte {sound}, und {weather}.
{Hour} fand sich {where} immer jemand, der glaubte: {View}.
{C} fragte nach {dtopic}, fragte nach {dtopic2} und wollte dann {todo}.
Der Weg {whither} war schlecht, {weather}, und {tb} verspätete sich.
{A} verkaufte {thing}, behielt {thing2} und sprach nie wieder über {topic}.
Ob {b} {done} hatte oder nicht, änderte wenig an {dtopic}.
Es war ein Tag, um {where} zu sitzen, dachte {c}, nicht um über {topic} zu streiten.
{Ta} zeigte ihnen {thing} und wartete {manner} auf Beifall.
„{View}“, schrieb {b} an den Rand eines Blattes über {topic}.
Alles {where} erinnerte {a} an {topic}: {thing}, {sound}, sogar das Licht.
Sie redeten noch immer über {topic}, als {c} schon {done} hatte.
{Weather}, und so musste man {thing} von Hand {whither} tragen.
{B} fand {where} {thing} und ging {manner} davon.
{Tb} hatte recht: {View}, und das mit {dtopic} bewies es.
{A} betrachtete {thing} mit {dfeeling}, bis {b} endlich {done} hatte.
{C} saß nie {hour} {where}, ohne auf {sound} zu lauschen.
„Solange {thing} im Haus ist“, sagte {tc}, „bleibt Zeit für {topic}.“
Weil {b} {done} hatte, verzieh man die Bemerkung über {topic}.
So kam {thing} wieder {whither}, und {a} kam wieder auf {topic}.
Eines Abends nahm {b} {thing} und ließ sich {where} nie wieder sehen.
Schwer zu sagen, was {a} mehr fürchtete, {topic} oder {sound}.
Mit {dthing} in der Mitte redeten {a} und {c} {manner} über {topic}.
Die Sache mit {dtopic} war älter als das Dorf, und {c} dachte mit {dfeeling} daran.
{A} fragte drei Leute nach dem Weg {whither}; alle drei redeten über {topic}.
Niemand {where} wusste mehr über {topic} als {tc}.
„Das hier“, sagte {c} {manner} und hob {thing} auf, „das kommt von {dtopic}.“
{Where} war der Boden nass, und {b} rutschte mit {dthing} in der Hand aus.
{Where} hing ein Anschlag über {topic}, unterschrieben von {b} und {c}.
Sie hätten {manner} weiter über {topic} geredet, aber {weather}, und das trieb alle nach Hause.
{B} sagte: „{View}“; {c} sagte nichts und {deed}.
Was nützt {thing}, fragte sich {a}, wenn man {hour} doch nur {where} sitzt?
Erst {hour} gestand {c}, was es wirklich war: {feeling}.
{A} schuldete {b} {thing}, und {b} schuldete {a} eine Erklärung über {topic}.
Bevor {c} antworten konnte, hatte {a} schon {done} und {b} {done2}.
„Zuerst müssen wir {todo}“, sagte {a}, „und dann {todo2}.“
{B} hatte eigentlich {todo} wollen, aber {weather}, und so blieb es ein Abend {where}.
Wer wollte schon mit {dthing} im Arm {todo}?
{Hour} versprach {ta} noch einmal, künftig immer {where} zu bleiben.
Ohne {thing} könne man nicht {todo}, behauptete {tb} {manner}.
{A} schwankte: Sollte man {todo} oder lieber {todo2}?
Um {topic} zu begreifen, erklärte {c} {manner}, braucht man {thing} und ein wenig Glück.
Niemand hatte {b} gebeten, {hour} mit {dthing} {whither} zu kommen.
Weder {ta} noch {tb} wollte wegen {b} oder gar für {topic} {todo}.
Nachdem {a} {done} hatte, war von {dtopic} keine Rede mehr.
{Ta} lobte {thing}, {tb} lobte {thing2}, und {c} wollte nur {todo}.
Seit {b} {where} {done} hatte, galt dort der Satz: {View}.
„Wer hat {done}?“, fragte {tc} {manner}, doch {where} meldete sich niemand.
Dass {c} {hour} {done} hatte, verzieh {ta} erst Jahre später.""".splitlines()
)
NUMBER_PATTERNS = tuple(
    """{A} zahlte {n} Kronen für {thing}.
Im Rechnungsbuch stand für {topic} die Zahl {n}.
„Es waren {n}“, sagte {b}, „und nicht {n2}.“
{Where} hatte jemand die Zahl {n} auf einen Balken gemalt.
{C} zählte {n} Schritte unterwegs {whither}.
Seite {n} des Kalenders handelte von {dtopic}.
{Where} lagen {n} Säcke, und {b} {deed}.
Zum Posten mit der Nummer {n} gehörten {thing} und {thing2}.
Im Jahr {n}, erzählte {ta}, war alles anders: {Weather}.
{A} schrieb {n} auf einen Zettel und versteckte ihn unter {dthing}.
Paket {n} war für {a} bestimmt, Paket {n2} für niemanden.
Die Uhr {where} trug die Nummer {n}, sagte {c}.
In {n} Tagen hörte man {where} nichts als {sound}.
„Es kamen {n} Leute“, sagte {tc} {manner}, „und alle redeten über {topic}.“
{B} verlangte {n} für {thing}; {a} bot {n2}.
Die Rechnung für {topic} belief sich auf {n}.
Von den {n} Briefen, die {c} schrieb, handelten die meisten von {dtopic}.
Auf {dthing} stand {n}, und das sagte {a} gar nichts.
Wagen {n} war leer, in Wagen {n2} fand man {thing}.
{A} wohnte im Haus Nummer {n} und saß abends {where}.
{Where} las man in verblasster Farbe die Nummer {n}.
Dem Dach fehlten zwischen {n} und {n2} Schindeln, und {weather}.
{Tb} erinnerte sich an {n} Winter, oder behauptete es {manner}.
Neben {dthing} lag ein Los mit der Nummer {n}.
Quittung {n} wurde {hour} von {c} unterschrieben.
Zusammen wogen sie {n} Pfund, {thing} und {thing2}.
Im Telegramm {n} stand nur: {View}.
Stern {n} im Verzeichnis, sagte {ta}, sieht man am besten {where}.""".splitlines()
)
