"""French words and sentence patterns of the prose generator: a canal town of glassworks, vines and
a thermal spring. Written for this project; no digits; part of version 1 of the text, so it never
changes.

Every pattern is grammatical with every choice of words: nothing agrees with a person or refers back
to a noun of either gender, what stands behind `de` has a list of its own where the two would melt,
and views begin with a consonant because `que` stands before them. Knows nothing of scenes.
"""

from __future__ import annotations

from longctx.eval.texts.prose_lists import split


def _of(nouns: tuple[str, ...]) -> tuple[str, ...]:
    """Behind `de`, which melts into the articles `le` and `les`."""
    melted = {"le ": "du ", "les ": "des "}
    found = []
    for noun in nouns:
        article = noun[: noun.find(" ") + 1]
        found.append(melted.get(article, f"de {article}") + noun.removeprefix(article))
    return tuple(found)


# A consonant begins each: `que` and `de` stand before them.
NAMES = split("""Barnabé|Bastien|Bathilde|Benoîte|Blaise|Blandine|Brice|Camille|Clotilde|Colette|Côme|Cyprien|Damien|Delphine|Denise|Didier|Fanchon
|Faustine|Ferdinand|Firmin|Flavie|Gabin|Gaspard|Germaine|Ghislaine|Gontran|Joséphine|Joséphin|Judith|Justine|Lambert|Léonie|Lucette|Lucien|Madeleine
|Marcelin|Margot|Martial|Mathurin|Mélanie|Modeste|Nicaise|Noémie|Pascaline|Perrine|Philibert|Placide|Prosper|Quentin|Raymonde|Rémi|Romain|Rosalie
|Sabin|Séraphine|Sidonie|Sylvain|Tancrède|Thérèse|Tristan|Valère|Victorine|Wandrille|Zacharie|Zélie""")
# With the article, as a subject or behind avec, chez, pour, sans, selon.
TRADES = split("""le pharmacien|la maîtresse de poste|le souffleur de verre|la libraire|le vigneron|la blanchisseuse|le facteur d'orgues|la sage-femme
|le batelier|la modiste|le ferblantier|la fleuriste|le gardien du musée|la cantinière|le tonnelier|la dentellière|le marchand de couleurs|la nourrice
|le cocher|la mercière|le sonneur|la brodeuse|le maître de forges|la bouquiniste|le greffier|la marchande de châtaignes|le luthier|la logeuse
|le bedeau|la potière|le géomètre|la doreuse|le garde champêtre|la photographe|le passeur|la pâtissière|le vitrier|la maraîchère""")
_PLACES = split("""le hangar des tonneaux|la verrerie|la buvette de la source|le vieux chai|la maison de l'éclusier|le pavillon des bains
|la cour du notaire|le musée de géologie|la salle des mariages|la cabane du pontonnier|la galerie des glaces ternies|le jardin des simples
|la librairie du passage|le kiosque|la cour aux Oies|la carrière de craie|la tuilerie|le pressoir banal|la lingerie de l'hospice|le théâtre de verdure
|la halle aux grains|le cabinet de lecture|la grange aux dîmes|le cloître|le bureau de poste|le magasin du brocanteur|la rue des Teinturiers
|le café du Cygne|la remise des diligences|le lavoir couvert|la cave aux fromages|le pavillon du belvédère|la tour de guet|le colombier
|la fabrique de boutons|le potager du couvent|la gare des marchandises|le manège|la serre aux orangers|le bureau de l'octroi|la chapelle du coteau
|le dépôt des péniches|la salle de rédaction|le grenier du collège|la loge du concierge|le vallon des vaches|la ruelle des Quatre Vents|le fournil
|la cour de l'auberge|le pré de la foire""")
_TOPICS = split("""le prix du verre|la fuite du grand bassin|le legs de la marquise|la fête des vendanges|les heures de l'écluse|la source tarie
|la lettre sans signature|le mariage remis|le partage des vignes|la sécheresse|le nouveau pont|les dettes du casino|le voyage à la mer
|le vol de la cloche|les tarifs des péniches|la venue du cirque|la couleur des volets|la querelle des deux curés|la vente du piano
|le nom de la grande rue|les neiges de cette année-là|la greffe des pruniers|les cahiers des écoliers|la solde des ouvriers|la recette du pain noir
|le retour des cigognes|les élections|le toit de l'école|le colis renvoyé|le secret du rouge rubis|la grève des bateliers|les plans du tunnel
|la renommée de l'auberge|la pendule qui avançait|la cession du terrain|le défilé interdit|la maladie des ormes|la réparation des orgues
|les usages du deuil|le voyageur de la chambre bleue|la taxe sur les chiens|le souterrain muré|les clauses du bail|le poids des cloches
|les vertus de la tisane|la carte des sources|la pièce censurée|le loup du bois noir|la foire aux chevaux|le journal de la veille""")
WORDS = {
    "place": _PLACES,  # behind dans, vers, devant, derrière, jusque dans
    "ofplace": _of(_PLACES),
    "topic": _TOPICS,  # behind sur, pour, contre, avec, or as an object
    "about": _of(_TOPICS),  # never beside `topic` in one pattern
    "hour": split("""à la tombée du jour|avant l'aube|à l'heure de la sieste|après la messe|de bon matin|vers midi|en pleine nuit
|un peu avant le souper|au troisième coup de cloche|la veille de la foire|après les dernières neiges|aux plus longs jours de l'été|à la fin de l'hiver
|après le passage du courrier|au beau milieu des vendanges|pendant la neuvaine|aux premières lueurs|à la sortie de l'école|entre deux averses
|le lundi gras|dans la semaine des examens|à la fermeture des boutiques|avant l'arrivée de la diligence|au moment du café|le dimanche soir
|passé minuit|au temps des foins|dans la matinée|la veille des noces|sous une lune déjà haute|au changement d'équipe|après la pluie|au début du carême
|un jour de marché|pendant la répétition de la fanfare|à l'heure des vêpres"""),
    "weather": split("""le brouillard ne se levait pas|le vent tournait à l'est|la pluie tombait fine et serrée|la chaleur pesait sur les toits
|les nuages passaient très bas|les jardins sentaient la terre mouillée|le tonnerre grondait derrière les coteaux|le givre couvrait les vitres
|le soleil tapait sur les façades|la bise soufflait|les feuilles mortes couraient le long du canal|la grêle crépitait sur les tuiles
|le ciel prenait la couleur de l'ardoise|la rivière montait|la lune, énorme, éclairait les quais|les hirondelles volaient bas
|la boue arrivait aux chevilles|la neige tombait sans bruit|chacun cherchait l'ombre|les gouttières débordaient|le froid passait sous les portes
|le jour était clair et un peu triste|pas un souffle ne passait|les étoiles semblaient toutes proches|la glace craquait dans le bassin
|les orages rôdaient autour de la colline|la brume bleue effaçait les vignes|la lumière baissait|la chaleur empêchait de penser|la fumée montait droit
|la rosée mouillait les bancs|le gel brûlait les géraniums|le dégel commençait|la poussière ne retombait pas"""),
    # Behind avec, dans, sur too; `de` melts with none of them.
    "thing": split("""une clef longue comme la main|un cahier à couverture verte|une lanterne sans vitre|une boîte de poids en cuivre
|une carte au coin brûlé|un panier de coings|un baromètre détraqué|un paquet de lettres ficelé|une cage vide|une pelote de ficelle
|une guitare sans cordes|une lampe à abat-jour bleu|un sachet de graines|un sablier|un manteau rapiécé|une corbeille de figues|un portrait sans cadre
|une clochette fêlée|une malle à double fond|une paire de bottes empruntées|un sac d'orge|une canne à pommeau d'argent|une maquette de péniche
|un encrier de voyage|un héron empaillé|un tiroir plein de boutons|une couronne de houblon sec|une chaise boiteuse|un parapluie à manche de corne
|un pot de miel brun|un échiquier sans rois|un almanach en retard|une balance d'apothicaire|un bidon d'huile|un pain dans un torchon
|un rouleau de papier calque|un livre de comptes|une caisse d'oranges|une longue-vue de poche|une bobine de fil rouge|un miroir piqué
|un chapeau d'un autre siècle|un seau de chaux|une cuillère en bois énorme|un trousseau de clefs rouillées|une écharpe grise|un morceau de quartz
|une boussole capricieuse|une pipe de bruyère|une oie dans un panier|un drapeau plié|une tasse au bord doré|un billet de loterie
|une couverture de laine|un éclat de vitrail|une bouteille d'anisette|un sifflet d'étain|une ardoise sans cadre|un moulin à café
|une bougie à demi consumée"""),
    "manner": split("""avec patience|très lentement|de mauvaise grâce|sans lever les yeux|comme si de rien n'était|un peu trop vite
|avec un plaisir évident|pour la seconde fois|contre tout conseil|avec mille précautions|avec plus de bruit que nécessaire|à moitié par jeu
|avec une grande exactitude|avec un air de vieille querelle|avec un soupir|sans aucune hâte|avec la plus grande politesse|avec un œil sur la porte
|de fort bonne humeur|par pure habitude|avec une main dans la poche|sans ordre ni méthode|à la surprise générale|presque avec tendresse
|malgré le bruit|sans le moindre détour|à contrecœur|avec une rare fermeté|avec la bouche pleine|presque en cachette|avec une tête de dimanche
|à grand-peine|sans trop y croire|comme dans un rêve|avec le chapeau à la main|pour la forme"""),
    # Present tense, a consonant first: `que` stands before them.
    "view": split("""personne ne pose la bonne question|la plus simple des raisons suffit le plus souvent|la patience est une forme de ruse
|la ville change moins vite que les gens|réparer commence toujours par démonter|promettre vite engage pour longtemps
|les vieilles coutumes ont leurs raisons|mieux vaut mesurer avant de disputer|faire des excuses demande plus de travail que bâtir un mur
|la jeunesse vaut bien celle de jadis|presque tous les secrets sont des choses que personne ne note|la chance reçoit trop de compliments
|le bon outil dure plus longtemps que la bonne raison|le silence peut blesser aussi|remonter une pendule est plus facile que relancer une conversation
|les pauvres retiennent mieux les prix que les visages|les visites doivent finir avant la lampe|rien ne pèse autant que la chose prêtée
|le retour paraît toujours plus court|les gens de passage voient ce que les voisins pardonnent|la planche faible se trouve toujours sous l'eau
|dans une petite chambre, chacun parle franchement|le mauvais hiver enseigne plus que dix étés|ce qui est à tous, personne ne le balaie
|les vieux amis se passent de longs discours|les cartes sont plus aimables que les montagnes|le meilleur pain sort des mains bougonnes
|les dettes grandissent dans le noir|les chiens jugent mieux que les juges|la loi ressemble à une clôture pleine de portes
|ce qui se fait lentement ne se fait pas deux fois|les enfants entendent ce que personne ne leur dit|le chemin était là avant l'auberge
|peindre une porte pourrie ne sert à rien|plaisanter est une façon de frapper à la porte|la mémoire tient mal ses comptes
|certaines lettres gagnent à se perdre un peu|ceux qui chantent à l'ouvrage ne comptent pas les heures|les bonnes nouvelles peuvent attendre la soupe
|les courtes visites n'existent pas|tout tiroir fermé est une tentation|le temps qu'il fait reste le seul sujet innocent
|la bouilloire ne se presse pas, le juge non plus|mieux vaut un doute qu'un mensonge|le passé se compose surtout de meubles
|les sermons courts se retiennent le mieux|le verre ne se travaille pas dans la colère|manquer le bateau mène aussi quelque part
|demander sa route fait déjà la moitié du chemin|les murs épais gardent mal les secrets"""),
    "deed": split("""ferma les volets|compta de nouveau les sacs|mit toute l'affaire par écrit|ralluma le poêle|rentra par le plus long chemin
|fit venir le menuisier|solda le compte|ouvrit la porte de derrière|recopia la plaque|vida les étagères|lut l'avis à haute voix|pesa le colis
|dessina un plan de la cave|rinça les pinceaux|mit les chaises en cercle|essaya la serrure|balaya la cour|demanda l'addition|plia la nappe
|remonta la pendule|alla chercher une autre lampe|prit le sentier du canal|suspendit les clefs au clou|goûta la soupe|affûta les deux couteaux
|détacha la barque|cacheta l'enveloppe|poussa la table sous la fenêtre|versa le reste du cidre|donna du grain aux poules|sonna deux fois
|grimpa au grenier|cacha la lettre dans l'almanach|chercha une bougie|corrigea une faute|paya le cocher|retourna le matelas|siffla le chien
|changea la mèche|planta les oignons|effaça l'ardoise|sortit par le verger|raya une ligne|secoua le parapluie|refusa une seconde tasse|joua une gamme
|rentra le bois|fit briller les cuivres|demanda la route de la mer|rapporta l'échelle|signa sans lire|tira les rideaux|marqua la porte à la craie
|couvrit le puits|colla l'oreille au mur|jeta les épluchures au cochon|arrosa les géraniums|boucla la malle|rangea la charrette sous le porche
|recousit un bouton|cassa une noix"""),
    # A consonant first: `de` stands before them.
    "plan": split("""descendre le canal|vendre la maison|consulter le préfet|réparer la pompe|prendre le bateau suivant|louer un piano
|dormir sous un toit|trouver un accord|garder le silence jusqu'au printemps|lire l'avenir dans le marc|changer de métier|planter des amandiers
|mesurer de nouveau le domaine|démonter la bascule|peindre la façade en bleu|chercher la source|tout reprendre depuis le début
|rendre les choses prêtées|jouer dans la fanfare|souper en famille|visiter le souterrain|tenir une auberge|nettoyer la citerne|fonder un journal
|nourrir les pigeons|sauver les apparences|rentrer avant la nuit|demander conseil|payer en plusieurs fois|dépoussiérer les livres|dire la vérité
|faire un détour"""),
    # A consonant first, and no article that melts: `de` is never before them, `avec` is.
    "feeling": split("""un soulagement muet|une sorte de jalousie|une fatigue ancienne|une envie soudaine de partir|plus de curiosité que de crainte
|une joie petite et sotte|la honte des gens trop tôt venus|une faim sans rapport avec le pain|un grand calme|la manie de tout redresser
|une pointe de nostalgie|le soupçon d'une farce|un espoir peu raisonnable|un brin de fierté|un ennui sans mélange|une tendresse inexplicable
|la satisfaction du travail fini|un léger dégoût|une certaine peur du lendemain|une vraie gratitude|un besoin de compagnie|un certain entêtement
|une vive impatience|un peu de regret|une gaieté un peu creuse|une peur sans nom|la paix des dimanches|une pudeur étrange"""),
    "sound": split("""le grincement de la vanne|un accordéon lointain|la cloche de l'école|la hache d'un voisin|le murmure du canal
|une charrette sur les pavés|le roucoulement des pigeons|le craquement d'une chaise|un chien insomniaque|le sifflement de la lampe
|la répétition de la chorale|le marteau du forgeron|le chant de la bouilloire|le pas d'un cheval|le tic-tac de plusieurs pendules|le passage des oies
|une scie dans le bois vert|le battoir des laveuses|un rire dans la cuisine|un volet mal fermé|la rumeur du marché|la pluie dans la gouttière
|la flûte d'un débutant|le vent dans la cheminée|la sirène de la verrerie|le clapotis des barques|une chanson de vendange|un écho de carrière
|le tour du potier|le bourdonnement des abeilles"""),
}
# Slots that hold one list in several forms: a pattern uses one of them.
FORMS = (("place", "ofplace"), ("topic", "about"))
PATTERNS = tuple(
    """{A} arriva {hour} dans {place} avec {thing}.
C'était dimanche, et {weather} ; dans {place}, il ne restait plus qu'{thing}.
« {View} », dit {a}, et {b} {deed}.
{B} avait apporté {thing}, et cela resta dans {place} sans autre commentaire.
La conversation roula {manner} sur {topic}, puis sur {topic2}.
Dans {place}, personne ne savait plus qui avait laissé là {thing}.
{A} {deed} et {deed2} {manner}, tandis que {weather}.
{B} demanda {manner} : « Est-ce vrai, tout ce qui se dit sur {topic} ? »
La réponse, le moment venu, porta sur {topic} plutôt que sur {topic2}.
Dans {place} se trouvait une longue table, et dessus, {thing} et {thing2}.
Si {a} éprouva {feeling}, cela ne se vit pas ; {b} {deed}, rien de plus.
Le plus curieux, pour {b}, restait {topic} et non {topic2}.
{A} soutenait que {view} ; {b}, que {view2} ; cela durait depuis des années.
Comme {weather}, la marche vers {place} prit plus de temps que prévu.
En ce temps-là, chaque cuisine parlait {about}, {manner} le plus souvent.
{B} rit {manner} et {deed}.
Le soir les trouva encore dans {place} à parler {about}.
Un silence tomba dans {place}, et tout le monde entendit {sound}.
Avant de rentrer, {a} {deed}, parce que {view}.
« Parlons plutôt {about} », répondit {b} {manner}.
Quelqu'un avait écrit à la craie devant {place} que {view}.
Nul ne regretta {thing} avant le jour où {c} {deed}.
{C}, qui avait tout entendu, {deed} et dit que {view}.
Pendant un moment, leurs yeux restèrent sur {place}, et la conversation revint vers {topic}.
Rien de plus facile que de blâmer {c} pour {topic}, et plusieurs le firent {manner}.
Plus tard, quand personne ne parla plus {about}, {a} offrit à {b} {thing}.
La fenêtre donnait du côté {ofplace}, où {weather} et où quelques personnes attendaient.
« Vous portez {thing} », observa {c}, « et vous me parlez {about} ».
{A} se souvint d'une autre année où, {hour}, {b} {deed} sans la moindre raison.
Pour comprendre {topic}, il faut avoir vu {place} {hour}.
Du côté {ofplace} venait {sound}.
{A} éprouva {feeling}, mais {deed} tout de même.
Avec {feeling} et {thing}, {b} se mit en route vers {place}.
« Écoutez », dit {c} ; c'était {sound}, rien d'autre.
Bien des gens croient que {view} ; {a} le croyait, et {ta} aussi.
Quand {b} {deed}, {a} comprit que l'affaire {about} était close.
Entre la fontaine et les abords {ofplace}, pas une âme, hormis {c}.
« {Weather} », disaient les uns ; « {weather2} », disaient les autres.
{A} fit {hour} l'achat que voici : {thing} ; le regret vint dès {place}.
Sans {thing}, {b} n'aurait jamais mis les pieds dans {place}.
Même {hour}, il suffisait de passer devant {place} pour entendre {sound}.
{Ta} et {tb} avaient le même avis sur {topic}, chose rare.
{A} n'aimait pas {place} : la moindre visite y faisait naître {feeling}.
{C} voulait savoir la suite {about} ; mais {b} {deed}.
En route vers {place}, il fallut compter les charrettes et disputer sur {topic}.
{B} prit {thing} sur l'étagère, hésita {manner}, puis choisit {thing2}.
Dans {place}, les gens disent que {view} et que {view2}.
{A} avait mal dormi : toute la nuit {sound}, et puis cette histoire {about}.
De {c}, la ville savait deux choses : son goût pour {topic} et son faible pour {thing}.
« Donnez-moi {thing} », dit {b}, « et je vous raconte l'affaire {about} ».
{Weather}, et tout le monde rentra dans {place}.
{A} voulait {thing} ; à la place, ce fut {thing2} et quelques conseils.
{Tb} approuva {manner}, puisque {view}.
Dans {place}, {hour}, on apercevait parfois {c} avec {thing} sous le bras.
{Tc} demanda {manner} à qui était tout cela, {thing} et {thing2}, mais {a} {deed}.
En chemin, peu de mots sur {topic}, et ce peu, {manner}.
{A} aurait préféré {place}, où du moins se faisait entendre {sound}.
Même quand {weather}, {b} {deed} et {deed2}.
{C} garda {thing} trente ans dans {place} sans demander à quoi cela servait.
Tout commença par {topic} et, comme si souvent, finit par {topic2}.
La nouvelle {about} parvint {hour} jusque dans {place}.
{A} {deed} ; {b} {deed2} ; {c} ne fit rien et reçut tous les éloges.
« {View} », répétait {ta} {manner} à qui venait avec {thing}.
Derrière {place}, sous un tas de feuilles, il y avait {thing}.
{Hour}, {a} et {b} se retrouvèrent dans {place}.
À peine avait-il été question {about} que {b} {deed}.
{B} parla {about} {manner}, et {c} en garda {feeling}.
Ce fut {tb} qui, {hour}, devant {place}, parla d'abord {about}.
Personne ne savait pourquoi {place} abritait {thing}, et {place2}, {thing2}.
« Du moins », dit {a} {manner}, « {view} ».
{C} était dans {place}, aux prises avec {thing}.
{Ta} n'avait qu'une règle : ne jamais parler {about} {hour}.
Soudain se fit entendre {sound}, et {b} {deed}.
Sur {topic}, {a} parlait {manner} ; sur {topic2}, pas un mot.
{A} envoya à {b} une lettre sur {topic}, avec un dessin {ofplace}.
La lettre de {c} disait seulement que {weather} et que {view}.
Un jour, {hour}, {b} vit tomber d'une charrette {thing}, non loin {ofplace}.
« Si {view} », raisonna {c}, « l'affaire {about} ne nous regarde pas ».
{A} mit tout l'après-midi à trouver {place}, et déjà {weather}.
Tandis que {b} parlait {about}, {a} songeait avec {feeling} à {plan}.
Les enfants coururent vers {place} pour voir {thing}.
Chaque année, {hour}, {tc} allait jusque dans {place}, sans dire pourquoi.
{A} hérita de tout : {thing}, {thing2} et {feeling}.
Non loin {ofplace}, {c} les dépassa, {deed} et continua sa route.
« J'entends {sound} depuis ce matin », se plaignit {ta}, « et personne ne fait rien ».
{B} aurait perdu {thing} plutôt que de reconnaître que {view}.
Sur la table, il y avait {thing}, {thing2} et une note sur {topic}.
Seul un esprit comme {c} voyait un lien entre {topic} et {thing}.
La neige des hauteurs n'empêcha pas {a} de {plan}, ni d'aller jusque dans {place}.
Dans {place}, les gens parlaient {about} {manner} ; {b} écoutait.
D'abord {a} {deed}, ensuite {b} {deed2}, et le jour passa ainsi dans {place}.
{C} entra {manner} et mit {thing} par terre.
Quelque chose dans {place}, {hour}, faisait naître chez {b} {feeling}.
« Riez donc », dit {tb} {manner}, « mais {view} ».
Dans un coin {ofplace}, il y avait {thing}, et chacun y pensait pour peu qu'il fût question {about}.
Pour gagner {place}, il fallait traverser {place2}, où montait d'ordinaire {sound}.
{A} avait un frère savant, qui parlait {about} {manner}, et jamais {about2}.
Ce ne fut pas {sound} qui réveilla {c}, mais {feeling}.
Pour retrouver {thing}, un seul indice, et il menait vers {place}.
Les uns allaient vers {place} pour {thing}, les autres pour {sound} ; {b} y allait avec {feeling}.
« Racontez-moi encore l'histoire {about} », pria {a}, et {b}, pour commencer, {deed}.
{Tc} passait {hour} devant {place} et partait au premier mot sur {topic}.
{B} ne pouvait ni vanter {thing} ni vivre sans {thing2}.
De la fontaine jusque dans {place}, {a} marcha {manner} avant de dire un mot {about}.
{Weather} ; {a} {deed} ; {hour}, plus personne ne vint.
Qui sait {plan} {manner} mérite {thing}, pensa {c}.
{A} entendit {sound} et, au-dessous, presque imperceptible, {sound2}.
Pour {topic}, {b} fit plus encore, et {deed}.
Il ne resta {about} qu'{thing}, et {feeling}.
Plus {c} parlait {about}, moins {a} avait envie de {plan}.
Chez {ta}, {thing} occupait la place d'honneur.
{B} ne demanda pas pourquoi {a} préférait {place} : {view}.
{Hour}, tandis que {weather}, {tb} et {tc} jouaient aux cartes dans {place}.
{A} éprouvait {feeling}, {b} plutôt {feeling2}, et tout cela pour {topic}.
Ce fut {c} qui {deed}, et ce fut {c} qui se plaignit ensuite de trouver {thing} dans {place}.
Dès lors, {place} fut le royaume du silence : rien qu'{thing} et {sound}.
La raison, expliqua {a} {manner}, il fallait la chercher dans {topic}.
{B} allait et venait {manner} devant {place}, sans lâcher {thing}.
Non loin {ofplace}, quelqu'un avait allumé un feu ; {weather}.
« C'était {hour} », dit {c}, « car je me rappelle {sound} ».
{A} mit de côté {thing} et garda {thing2} pour {b}.
Quiconque a porté {thing} jusque dans {place} sait que {view}.
Rendez-vous fut pris {hour}, dans {place}, avec {thing}.
Rien ne fut décidé sur {topic} ; {b} {deed}, et {tc} alla dormir.
{A} vantait {place}, {b} vantait {place2}, mais au fond {a} pensait à {plan}.
Il y eut {thing} pour quiconque voulut bien {plan}, raconta {ta} {manner}.
Sous un banc {ofplace}, {tb} découvrit {thing}.
« {View} », répéta {a}, « et je ne dis pas cela pour {topic} ».
À la fin {b} {deed}, ce qui ne surprit personne : tout venait {about}.
{C} ne pouvait entendre {sound} sans revoir {place}.
Pour toute réponse sur {topic}, {ta} montra {thing}.
{A} partit par {place}, {b} resta avec {thing}, et {c} {deed}.
Le premier visage dans {place} fut {tc}, avec {thing} et {feeling}.
« Pas {hour} », dit {b}, « et surtout pas avec {thing} ».
La porte bâillait du côté {ofplace}, et l'air apportait {sound}.
Toutes les connaissances de {a} sur {topic} venaient de chez {tb}.
{Weather}, si bien que {c} {deed} et lut à haute voix une page sur {topic}.
{B} eut plaisir à revoir {thing} dans {place}.
Ce que {a} vit non loin {ofplace} ne pouvait être {thing} : {weather}.
{A} rêvait souvent {ofplace}, toujours {hour}, toujours avec {sound}.
La querelle entre {ta} et {tc} avait commencé par {thing}.
Au lieu de répondre, {b} {deed} {manner}.
Avec {thing} sur la table, il ne restait plus qu'à parler {about}.
{C} se rappelait avec {feeling} le jour où {a} {deed}.
{Tb} cria du côté {ofplace} : « Qui a vu {thing} ? »
Deux fois {b} {deed}, et deux fois {sound} fut la seule réponse.
Le souper eut lieu dans {place}, et personne ne remarqua {thing}.
Depuis {place}, {hour}, il arrivait d'entendre {sound}.
{A} échangea un jour {thing} contre {thing2} et appela cela sagesse.
Il était rare que {b} veuille {plan} ; après tout, {view}.
{Tc} avait vu venir l'affaire {about} avec {feeling}.
« Alors nous passerons par {place} », décida {a}, « et nous prendrons {thing} ».
Sous {thing} se cachait une feuille sur {topic}, de la main de {b}.
{B} ne répondit pas, à cause du bruit : c'était {sound}, et {weather}.
{Hour}, il y avait toujours dans {place} quelqu'un pour croire que {view}.
{C} demanda des nouvelles {about}, puis des nouvelles {about2}, et {deed}.
Le chemin {ofplace} était mauvais, {weather}, et {tb} se faisait attendre.
{A} vendit {thing}, garda {thing2} et ne dit plus un mot {about}.
Que {b} veuille {plan} ou non ne changeait pas grand-chose à l'affaire {about}.
C'était un jour pour {plan}, pensa {c}, non pour parler {about}.
{Ta} leur montra {thing} et attendit {manner} les applaudissements.
« {View} », écrivit {b} en marge d'un papier sur {topic}.
Tout dans {place} rappelait à {a} l'affaire {about} : {thing}, {sound}, la lumière même.
La conversation sur {topic} durait encore quand {c} {deed}.
Puisque {weather}, il fallut porter {thing} à bras jusque dans {place}.
{B} trouva {thing} dans {place} et repartit {manner}.
Des gens venaient de très loin, jusque dans {place}, entendre {a} parler {about}.
{Tb} avait raison : {view}, et chacun le vit bien dans l'affaire {about}.
{A} regarda {thing} avec {feeling}, puis {b} {deed}.
{C} ne passait jamais {hour} devant {place} sans guetter {sound}.
« Avec {thing} à la maison », dit {tc}, « nous avons le temps de penser à {plan} ».
Parce que {b} {deed}, les autres pardonnèrent le mot sur {topic}.
Tard ou non, {a} {deed} ; {hour}, cela ne comptait plus.
Ainsi revint {thing} dans {place}, et {a} à ses discours sur {topic}.
Un soir, {b} {deed}, prit {thing} et ne reparut plus dans {place}.
Difficile de dire ce que {a} craignait le plus : {topic}, ou {sound}.
Avec {thing} pour témoin, {a} et {c} parlaient {about} {manner}.
L'affaire {about} était plus ancienne que la ville, et {c} y pensait avec {feeling}.
{A} demanda trois fois le chemin pour gagner {place} ; trois fois, la réponse porta sur {topic}.
Personne dans {place} ne savait parler {about} aussi bien que {tc}.
« Voyez {thing} », dit {c} {manner} : « cela vient {about} ».
Le sol était mouillé devant {place}, et {b} glissa, {thing} à la main.
Chaque fois que cessait {sound}, {a} levait les yeux vers {place}.
Dans {place} pendait un avis sur {topic}, avec les signatures de {b} et de {c}.
La soirée aurait fini sur {topic}, mais {weather}, et chacun rentra chez soi.
{B} dit que {view} ; {c} ne dit rien et {deed}.
À quoi bon {thing}, se demandait {a}, quand on habite non loin {ofplace} ?
Il fallut attendre longtemps pour que {c}, {hour}, avoue {feeling}.
{A} devait {thing} à {b}, et {b} devait à {a} une explication sur {topic}.
Avant de {plan}, {c} {deed} et {deed2}.
« La première chose est de {plan} », dit {a} ; « la seconde, de {plan2} ».
{B} avait l'intention de {plan}, mais {weather}, et ce fut encore une soirée dans {place}.
Qui voudrait {plan} avec {thing} sur les bras ?
{Hour}, {ta} promit encore de {plan}.
Sans {thing}, pas moyen de {plan}, selon {tb}.
{A} hésitait entre deux choses, {plan} et {plan2} ; enfin {b} {deed}.
Pour {plan}, expliqua {c} {manner}, il faut {thing} et un peu de chance.
Persuader {a} que {view} fut facile ; l'amener à {plan} le fut moins.
Personne n'avait prié {b} de {plan}, encore moins {hour}.
Il serait toujours temps de {plan} ; dans {place}, pour l'heure, régnait {sound}.
Ni {ta} ni {tb} ne voulurent {plan} pour {topic}.""".splitlines()
)
NUMBER_PATTERNS = tuple(
    """{A} paya {n} francs pour {thing}.
Le livre de comptes donnait le chiffre {n} pour l'affaire {about}.
« C'était {n} », dit {b}, « et non {n2} ».
Devant {place}, quelqu'un avait peint le nombre {n}.
{C} compta {n} pas avant d'atteindre {place}, puis {n2} pas encore.
La page {n} de l'almanach traitait {about}.
Il restait {n} sacs dans {place}, et {b} {deed}.
Le lot marqué {n} contenait {thing} et {thing2}.
En l'an {n}, racontait {ta}, {weather}.
{A} nota {n} sur un papier et glissa ce papier sous {thing}.
Le colis {n} était pour {tb} ; le colis {n2}, pour personne.
La pendule, dans {place}, portait le numéro {n}, d'après {c}.
Pendant {n} jours, rien ne monta {ofplace}, sauf {sound}.
« Il est venu {n} personnes », dit {tc} {manner}, « et toutes parlaient {about} ».
{B} demandait {n} pour {thing} ; {a} offrait {n2}.
La facture pour {topic} montait à {n}.
Des {n} lettres de {c}, la plupart traitaient {about}.
La marque sur {thing} disait {n}, et {a} n'en savait pas plus.
La péniche {n} passa vide ; la péniche {n2} transportait {thing}.
{A} logeait au numéro {n}, non loin {ofplace}.
Devant {place} se lisait le numéro {n}, à la peinture passée.
Il manquait entre {n} et {n2} tuiles aux toits du côté {ofplace}.
{Tb} se rappelait {n} hivers, ou le disait {manner}.
Près de {b}, sur {thing}, traînait un billet au numéro {n}.
Le reçu {n} fut signé {hour} par {c}.
Cela pesait {n} livres, plus qu'{thing} et {thing2} ensemble.
La dépêche {n} disait seulement que {view}.
Le four {n} s'éteignit pour {topic}.""".splitlines()
)
