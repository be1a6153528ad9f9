"""Spanish words and sentence patterns of the prose generator: a mining town on a high plain and its
railway. Written for this project; no digits; part of version 1 of the text, so it never changes.

Every pattern is grammatical with every choice of words: nothing agrees with a person, trades are
never behind `a` or `de`, places and topics have their `de` in lists of their own, and no word in a
list begins with the sound of i or o that would change `y` and `o`. Knows nothing of scenes.
"""

from __future__ import annotations

from longctx.eval.texts.prose_lists import split


def _of(nouns: tuple[str, ...]) -> tuple[str, ...]:
    """Behind `de`, which melts into the article `el`."""
    return tuple(
        f"del {noun.removeprefix('el ')}" if noun.startswith("el ") else f"de {noun}"
        for noun in nouns
    )


NAMES = split("""Abril|Adela|Agustín|Alma|Amadeo|Anselmo|Aurora|Baltasar|Benigno|Berta|Blas|Brígida|Camilo|Casilda|Celestino|Clara|Cosme
|Dámaso|Delfina|Dionisio|Edelmira|Efraín|Elvira|Emeterio|Estela|Eulalia|Fabián|Felisa|Fermín|Gaspar|Genoveva|Gregorio|Hortensia|Jacinta
|Jerónimo|Julián|Lázaro|Leonor|Liborio|Lorenza|Macario|Marcela|Matías|Micaela|Nicanor|Noemí|Octavio|Paulina|Porfirio|Quiteria|Ramiro
|Remedios|Rogelio|Rufina|Salomé|Saturnino|Simón|Tadeo|Teófila|Tomasa|Ulises|Valentín|Visitación|Zenón""")
# With the article, as a subject or behind con, para, por, sin, según.
TRADES = split("""el boticario|la telegrafista|el jefe de estación|la maestra|el herrero|la panadera|el relojero|la encuadernadora
|el arriero|la costurera|el carpintero|la tendera|el sacristán|la partera|el guardagujas|la fotógrafa|el maquinista|la posadera|el aguador
|la lavandera|el notario|la hilandera|el cartero|la bibliotecaria|el cantero|la pastora|el hojalatero|la organista|el salinero|la alfarera
|el capataz|la sombrerera|el afinador|la archivera|el sereno|la herbolaria|el topógrafo|la modista""")
_PLACES = split("""la estación vieja|el andén de mercancías|la plaza de los álamos|el almacén de sal|la fonda del cruce
|el patio de la escuela|la bocamina cerrada|el teatro a medio construir|la oficina de telégrafos|el aljibe grande
|la calle de los hojalateros|el corral de las mulas|la capilla del cerro|el puente del ferrocarril|la botica|el taller de carruajes
|la era de arriba|el lavadero|la biblioteca del casino|el molino de aceite|la cuesta de las cabras|el depósito de agua|la casa del ingeniero
|el cobertizo de las vagonetas|la huerta del convento|el mercado de lanas|la imprenta|el mirador de la salina|la sala de espera
|el camino de las recuas|la fragua|el desván del ayuntamiento|la balanza pública|el cementerio de arriba|la cantina de los mineros
|el secadero de pimientos|la vega seca|el salón de billares|la puerta del archivo|el pozo de la higuera|la cantera de yeso|el apeadero
|la alameda nueva|el horno comunal|la torre del reloj|el palomar en ruinas|la acequia madre|el quiosco de la música|la trastienda
|el vado de las piedras""")
_TOPICS = split("""el precio de la sal|la avería de la locomotora|el testamento del ingeniero|la fiesta de la cosecha
|el horario de los trenes|la veta perdida|el telegrama sin firma|la boda aplazada|el reparto del agua|la sequía|el puente nuevo
|la deuda del casino|el viaje a la costa|la lámpara del santo|el robo de la campana|la llegada del circo|el color de las puertas
|la herencia de los gemelos|el pleito de las cabras|la subasta del piano|el nombre de la calle mayor|la nieve de aquel año
|el arte de injertar olivos|la cartilla de los niños|el sueldo de los peones|la receta del membrillo|el paso de las cigüeñas
|la elección del alcalde|el tejado de la escuela|la carta devuelta|el secreto del tinte azul|la huelga de los arrieros
|el plano de las galerías|la fama de la posada|el reloj que adelantaba|la compra del terreno|el desfile suspendido|la fiebre del ganado
|el arreglo del órgano|la costumbre del luto|el forastero de la fonda|la multa por los perros|el túnel abandonado
|la letra pequeña del contrato|el peso de las campanas|la cura del insomnio|el mapa de los manantiales|la comedia prohibida
|el lobo de la sierra|la venta de las mulas""")
# Slots that hold one list in several forms: a pattern uses one of them.
FORMS = (("place", "ofplace"), ("topic", "about"))
WORDS = {
    "place": _PLACES,  # behind en, hacia, hasta, por, desde, ante, tras
    "ofplace": _of(_PLACES),
    "topic": _TOPICS,  # behind sobre, por, con, or as a subject
    "about": _of(_TOPICS),  # never beside `topic` in one pattern
    "hour": split("""al anochecer|antes del alba|a la hora de la siesta|después de misa|a primera hora de la mañana|al caer la tarde
|en plena noche|poco antes de la cena|al tercer toque de campana|en vísperas de la feria|tras la última nevada
|en los días más largos del verano|al final del invierno|después del paso del correo|en mitad de la vendimia|durante la novena
|con las primeras luces|a la salida de la escuela|entre dos aguaceros|el lunes de carnaval|en la semana de los exámenes
|al cierre de las tiendas|antes de la llegada del tren|después de la sobremesa|en la madrugada del domingo|pasado el mediodía
|en tiempo de trilla|a media mañana|en la víspera de la boda|con la luna ya alta|en el cambio de turno de la mina|después de las lluvias
|al principio de la cuaresma|en día de mercado|durante el ensayo de la banda|a la hora del rosario"""),
    "weather": split("""caía una lluvia fina|el viento levantaba polvo en la llanura|la niebla no acababa de irse|apretaba el calor
|las nubes pasaban muy bajas|el aire olía a tierra mojada|tronaba detrás de la sierra|la escarcha cubría los raíles
|el sol pegaba de lleno en las fachadas|soplaba un viento del norte|las hojas secas corrían por la calle|granizaba sobre los tejados
|el cielo tenía color de ceniza|el río bajaba turbio|brillaba una luna enorme|las golondrinas volaban a ras de suelo
|el barro llegaba a los tobillos|nevaba sin ruido|la sombra valía más que el dinero|goteaban los aleros|el frío se metía por las rendijas
|la luz era limpia y un poco triste|no corría ni una brizna de aire|las estrellas parecían más cerca que nunca
|el hielo se rompía en los charcos|la tormenta daba vueltas al cerro|una bruma azul borraba los montes|llovía a cántaros
|el bochorno no dejaba pensar|las chimeneas humeaban derechas|el relente mojaba los bancos|la helada había quemado los geranios
|el arco de una tormenta lejana cerraba el horizonte|la tierra se abría de sed"""),
    "thing": split("""una llave larga como una mano|un cuaderno de tapas verdes|un farol sin cristal|una caja de tornillos de latón
|un mapa con una esquina quemada|una cesta de membrillos|un barómetro averiado|un paquete de cartas atado con bramante|una jaula vacía
|un rollo de alambre|una guitarra sin cuerdas|una lámpara de carburo|un sobre de semillas|un reloj de arena|un abrigo con remiendos
|una bandeja de higos|un retrato sin marco|una campanilla rajada|una maleta con doble fondo|un par de botas ajenas|un saco de cebada
|un bastón con puño de plata|una maqueta de la locomotora|un tintero de viaje|una lechuza disecada|un cajón lleno de botones
|una corona de laurel seco|una silla coja|un paraguas con mango de hueso|un tarro de miel oscura|un tablero de ajedrez sin reyes
|un almanaque atrasado|una balanza de boticario|una lata de aceite|un pan envuelto en un paño|un pliego de papel de calco
|un libro de cuentas|una caja de naranjas|un catalejo de bolsillo|un carrete de hilo rojo|un espejo con manchas|un sombrero de otro siglo
|un cubo de cal|una cuchara de palo enorme|un manojo de llaves oxidadas|una bufanda gris|una piedra con vetas de cobre|una brújula terca
|una pipa de brezo|un gallo en una cesta|una bandera doblada|una taza con el borde dorado|un billete de tren sin usar
|una manta de lana cruda|un trozo de raíl|una botella de anís|un silbato de guardagujas|una pizarra sin marco|un molinillo de café
|una vela a medio gastar"""),
    "manner": split("""con paciencia|muy despacio|de mala gana|sin levantar la vista|como si nada|con demasiada prisa|con evidente placer
|por segunda vez|contra todo consejo|con mucho cuidado|con más ruido del necesario|medio en broma|con gran exactitud
|con aire de vieja disputa|con un suspiro|sin prisa alguna|con toda cortesía|con un ojo en la puerta|de muy buen humor|por pura costumbre
|con una mano en el bolsillo|sin orden ni concierto|entre muchas interrupciones|para sorpresa general|casi con ternura|a pesar del ruido
|con la ventana abierta|bajo protesta|con rara firmeza|como quien lee una lista|con la boca llena|casi a escondidas|con cara de domingo
|de un modo muy suyo|a duras penas|con cara de sueño"""),
    "view": split("""nadie había hecho la pregunta correcta|la explicación más simple suele ser la buena
|la paciencia es una forma de astucia|el pueblo cambia menos de lo que dicen|todo arreglo empieza por desmontar algo
|una promesa hecha deprisa sigue siendo una promesa|las costumbres viejas tienen su razón|conviene medir antes de discutir
|cuesta más una disculpa que una tapia|los jóvenes no son peores que antes|casi todos los secretos son cosas que nadie apuntó
|la suerte recibe demasiados elogios|una buena herramienta dura más que una buena razón|el silencio también puede ofender
|es más fácil dar cuerda a un reloj que a una charla|los pobres recuerdan mejor los precios que las caras
|la visita debe irse antes que la luz|nada pesa tanto como lo prestado|la vuelta siempre es más corta
|los forasteros ven lo que los vecinos perdonan|el agua encuentra siempre la tabla floja|en un cuarto pequeño se habla con franqueza
|un mal invierno enseña más que diez veranos|lo que es de todos no lo barre nadie|los viejos amigos necesitan pocas palabras
|los mapas son más amables que los montes|el mejor pan lo hace una mano gruñona|las deudas crecen en la oscuridad
|los perros juzgan mejor que los jueces|la ley es una cerca con muchas puertas|lo que se hace despacio no se hace dos veces
|los niños oyen lo que nadie les dice|el camino estaba allí antes que la posada|no sirve de nada pintar una puerta podrida
|una broma es una manera de llamar|la memoria es mala contable|algunas cartas ganan con el retraso
|quien canta en el trabajo no cuenta las horas|las buenas noticias pueden esperar a la sopa|no existe la visita corta
|un cajón cerrado es una tentación|el tiempo es el único tema inocente|nadie mete prisa a un puchero|más vale una duda que una mentira
|el pasado es casi todo muebles|el sermón corto se recuerda más|la sal no entiende de prisas|un tren perdido también lleva a alguna parte
|quien pregunta por el camino ya va a medias|las paredes gruesas guardan mal los secretos"""),
    "deed": split("""cerró los postigos|contó otra vez los sacos|puso todo por escrito|encendió la estufa|volvió por el camino largo
|mandó llamar al carpintero|saldó la cuenta|abrió la puerta de atrás|copió la lápida|vació los estantes|leyó el bando en voz alta
|pesó el paquete|dibujó un plano del sótano|lavó los pinceles|colocó las sillas en corro|probó la cerradura|barrió el patio|pidió la cuenta
|dobló el mantel|dio cuerda al reloj|trajo otra lámpara|tomó la senda de la acequia|colgó las llaves en su clavo|probó la sopa
|afiló los dos cuchillos|desató la mula|lacró el sobre|arrimó la mesa a la ventana|sirvió lo que quedaba del vino
|dio de comer a las gallinas|tocó dos veces la campana|subió al desván|escondió la carta en el almanaque|buscó una vela
|corrigió la ortografía|pagó al arriero|le dio la vuelta al colchón|llamó al perro con un silbido|cambió la mecha|plantó los bulbos
|borró la pizarra|salió por el huerto|tachó una línea|sacudió el paraguas|rechazó otra taza|tocó una escala|entró la leña|limpió los bronces
|preguntó por el tren de la costa|devolvió la escalera|firmó sin leer|corrió las cortinas|marcó la puerta con tiza|tapó el pozo
|pegó la oreja a la pared|echó las mondas al cerdo|regó los geranios|cerró el baúl|metió el carro bajo el arco|remendó un saco
|partió una nuez"""),
    "plan": split("""cruzar la llanura a pie|vender la casa|escribir al gobernador|arreglar la noria|esperar al tren siguiente
|comprar un piano|dormir bajo techo|llegar a un acuerdo|callar hasta la primavera|aprender el código del telégrafo|cambiar de oficio
|plantar almendros|medir la finca de nuevo|desmontar la báscula|pintar la fachada de azul|buscar el manantial
|contar la historia desde el principio|devolver lo prestado|tocar en la banda|cenar en familia|bajar a la galería más honda|abrir una fonda
|limpiar el aljibe|enseñar a leer a los mineros|criar palomas|guardar las apariencias|volver antes de la noche|pedir consejo|pagar a plazos
|quitar el polvo a los libros|decir la verdad|dar un rodeo"""),
    "feeling": split("""un alivio callado|una especie de envidia|un cansancio antiguo|unas ganas repentinas de viajar
|más curiosidad que alarma|una alegría pequeña y tonta|la vergüenza de llegar pronto|un hambre que no era de pan|una gran calma
|la manía de ponerlo todo derecho|nostalgia|la sospecha de una burla|una esperanza poco razonable|un punto de orgullo|puro aburrimiento
|una ternura difícil de explicar|la satisfacción de una lista terminada|un leve disgusto|miedo a las corrientes de aire|gratitud
|necesidad de compañía|cierta terquedad|mera impaciencia|pesar|una alegría algo hueca|un temor sin nombre|la paz de los domingos
|un pudor extraño"""),
    "sound": split("""el chirrido de la noria|un acordeón lejano|la campana de la escuela|el hacha de algún vecino|el rumor de la acequia
|un carro sobre las piedras|el arrullo de las palomas|el crujido de una silla|un perro desvelado|el silbido de la lámpara|el ensayo del coro
|el martillo del herrero|el hervor del puchero|el paso de una mula|el tictac de varios relojes|el vuelo de las grullas
|una sierra en la madera verde|el golpe de la ropa mojada|la risa de la cocina|una contraventana suelta|el murmullo del mercado
|la lluvia en el canalón|una flauta de principiante|el viento en la chimenea|el silbato de la locomotora|el repiqueteo del telégrafo
|una copla de la siega|el eco de la cantera|la rueda del alfarero|el zumbido de las abejas"""),
}
PATTERNS = tuple(
    """{A} llegó {hour} hasta {place} con {thing}.
Era domingo y {weather}; en {place} ya no quedaba más que {thing}.
«{View}», dijo {a}, y {deed}.
{B} había traído {thing}, que se quedó en {place} sin que nadie volviera a mencionarlo.
Hablaron {about} {manner}, y después, {about2}.
Nadie en {place} recordaba quién había dejado allí {thing}.
{A} {deed} y {deed2} {manner}, mientras {weather}.
{B} preguntó {manner}: «¿Es verdad lo que se cuenta {about}?».
La respuesta, cuando llegó, no trataba {about}, sino {about2}.
En {place} había una mesa larga, y encima, {thing} y {thing2}.
Si {a} sintió {feeling}, no se le notó; {b} solo {deed}.
Lo que más le llamó la atención a {b} fue {topic}, no {topic2}.
{A} sostenía que {view}; {b}, que {view2}; llevaban años así.
Como {weather}, el paseo hasta {place} duró más de la cuenta.
En aquellos años se hablaba {about} en todas las cocinas, casi siempre {manner}.
{B} se rio {manner} y {deed}.
Se quedaron en {place} hasta la noche y hablaron {about}.
Hubo un silencio en {place}, y entonces se oyó {sound}.
Antes de irse a casa, {a} {deed}, porque {view}.
«Preferiría hablar {about}», contestó {b} {manner}.
Alguien había escrito en una tapia cerca {ofplace} que {view}.
No echaron de menos {thing} hasta que {c} {deed} y {tc} hizo una pregunta.
{C}, que lo había oído todo, {deed} y dijo que {view}.
Durante un rato miraron hacia {place}, y la charla volvió al asunto {about}.
Era fácil echarle a {c} la culpa {about}, y más de uno lo hizo {manner}.
Más tarde, con {topic} ya en el olvido, {a} le regaló a {b} {thing}.
La ventana daba al lado {ofplace}, donde {weather} y esperaban unas cuantas personas.
«Llevas {thing} en la bolsa», observó {c}, «y me vienes con {topic}».
{A} recordó otro año en que, {hour}, {b} {deed} sin ningún motivo.
Quien quiera entender algo {about} tiene que ver primero {place} {hour}.
Desde {place} llegaba {sound}.
{A} sintió {feeling}, pero {deed} de todos modos.
Con {feeling} y {thing}, {b} se puso en camino hacia {place}.
«Escucha», dijo {c}; solo era {sound}.
Hay gente convencida de que {view}; {a} era de esa gente, y {ta} también.
Cuando {b} {deed}, {a} comprendió que lo {about} había terminado.
Entre la fonda y los alrededores {ofplace} no encontraron más que a {c}.
{Weather}, decían unos; {weather2}, decían otros.
{A} compró {thing} {hour} y se arrepintió antes de llegar hasta {place}.
De no ser por {thing}, {b} nunca habría pasado por {place}.
Bastaba {sound} para saber, incluso {hour}, que {weather}.
{Ta} y {tb} pensaban lo mismo {about}, cosa rara.
A {a} no le gustaba entrar en {place}: había allí algo que despertaba {feeling}.
«¿Y lo {about}?», quiso saber {c}; pero {b} {deed}.
De camino hacia {place} contaron carros y discutieron por {topic}.
{B} cogió del estante {thing}, dudó y eligió al fin, {manner}, {thing2}.
En {place} se dice que {view} y que {view2}.
{A} había dormido mal: toda la noche con {sound}, y encima {topic}.
De {c} se sabían dos cosas: su afición a hablar {about} y su amor por {thing}.
«Dame {thing}», dijo {b}, «y te cuento lo {about}».
Luego {weather}, y todo el mundo se metió en {place}.
{A} quería {thing}; le dieron {thing2} y algún consejo.
{Tb} asintió {manner}, porque {view}.
En {place}, {hour}, podía verse a {c} con {thing} bajo el brazo.
«¿De quién es esto?», dijo {tc} ante {thing}, pero {a} solo {deed}.
Poco se habló por el camino {about}, y ese poco, {manner}.
{A} habría preferido quedarse en {place}, donde al menos se oía {sound}.
Aunque {weather}, {b} {deed} y {deed2}.
{C} guardó {thing} treinta años en {place} sin preguntar para qué servía.
Todo empezó por {topic} y, como tantas veces, acabó con {topic2}.
La noticia {about} llegó hasta {place} {hour}.
{A} {deed}; {b} {deed2}; {c} no hizo nada y recibió todos los elogios.
«{View}», solía decir {ta} {manner} a quien venía con {thing}.
Detrás {ofplace} apareció {thing}, bajo un montón de hojas.
{Hour}, {a} y {b} volvieron a encontrarse en {place}.
Apenas {a} {deed}, se oyó {sound} por el lado {ofplace}.
{B} habló {about} {manner}, y {c} sintió {feeling}.
Fue {tb} quien habló primero {about}, {hour}, ante {place}.
Nadie sabía por qué se guardaba {thing} en {place} y {thing2} en {place2}.
«Por lo menos», dijo {a} {manner}, «{view}».
Encontraron a {c} en {place}, a vueltas con {thing}.
{Ta} tenía una sola regla: no hablar nunca {about} {hour}.
De pronto se oyó {sound}, y {b} {deed}.
Sobre {topic}, {a} hablaba {manner}; sobre {topic2}, ni una palabra.
{A} le escribió a {b} una carta sobre {topic}, con un dibujo {ofplace}.
La carta de {c} solo decía que {weather} y que {view}.
Una vez, {hour}, {b} vio caer de un carro {thing} cerca {ofplace}.
«Si {view}», razonó {c}, «lo {about} no es cosa nuestra».
{A} tardó toda la tarde en llegar hasta {place}, y para entonces {weather}.
Mientras {b} hablaba {about}, {a} pensaba con {feeling} en {plan}.
Los niños corrieron hacia {place} para ver {thing}.
Todos los años, {hour}, {tc} iba hasta {place}, y nadie sabía por qué.
{A} lo heredó todo: {thing}, {thing2} y {feeling}.
Cerca {ofplace} los adelantó {c}, que {deed} y siguió adelante.
«Llevo todo el día con {sound}», se quejó {ta}, «y nadie hace nada».
{B} habría perdido {thing} antes que admitir que {view}.
En la mesa había {thing}, {thing2} y una nota sobre {topic}.
Solo {c} veía la relación entre {topic} y {thing}.
Que en el valle nevara no le impidió a {a} {plan}, y menos aún ir hasta {place}.
En {place} se discutía {about} {manner}; {b} escuchaba y callaba.
Primero {a} {deed}, luego {b} {deed2}, y así pasó el día en {place}.
{C} entró {manner} y dejó en el suelo {thing}.
Había algo en {place} que, {hour}, despertaba en {b} {feeling}.
«Ríanse», dijo {tb} {manner}, «pero {view}».
En un rincón {ofplace} había {thing}, y nadie sabía hablar {about} sin señalar hacia allí.
Para llegar hasta {place} había que pasar por {place2}, donde casi siempre se oía {sound}.
{A} tenía un hermano que lo sabía todo {about} y nada {about2}.
No fue {sound} lo que despertó a {c}, sino {feeling}.
De {thing} quedaba una sola pista, y llevaba hasta {place}.
Unos iban hasta {place} por {thing}, otros por {sound}; {b}, por {feeling}.
«Cuéntame otra vez lo {about}», rogó {a}, y {b} primero {deed}.
{Tc} pasaba {hour} por {place} y se marchaba en cuanto alguien hablaba {about}.
{B} no sabía alabar {thing} ni vivir sin {thing2}.
Habían andado desde {place} hasta {place2} cuando {a} habló por fin {about}.
{Weather}; {a} {deed}; {hour} no vino nadie más.
Quien se pone a {plan} {manner} merece {thing}, pensó {c}.
{A} oyó {sound} y, por debajo, muy débil, {sound2}.
Por {topic}, {b} hasta {deed}.
Lo que quedó {about} fue {thing}, y también {feeling}.
Cuanto más hablaba {c} {about}, menos ganas tenía {a} de {plan}.
En casa {thing} tenía un sitio de honor, decía {ta} {manner}.
«¿Por qué hay que pasar por {place}?», preguntó {b}, y {a} contestó que {view}.
{Hour}, mientras {weather}, {tb} y {tc} jugaban a las cartas en {place}.
{A} y {b} sentían {feeling}, cada cual por lo suyo: {topic} y {topic2}.
Fue {c} quien {deed}, y fue {c} quien luego se quejó por culpa de {thing}.
Para entonces en {place} no quedaba nadie, solo {thing} y {sound}.
La razón, explicó {a} {manner}, había que buscarla en {topic}.
{B} iba y venía por {place} {manner}, sin soltar {thing}.
No lejos {ofplace} alguien había encendido una hoguera; {weather}.
«Tuvo que ser {hour}», dijo {c}, «porque recuerdo {sound}».
{A} puso {thing} junto a {thing2} y se quedó un rato en silencio.
Quien ha cargado con {thing} hasta {place} sabe que {view}.
Quedaron en verse en {place} {hour} y en llevar {thing}.
Nada se decidió sobre {topic}; {b} {deed}, y {tc} se fue a dormir.
{A} alababa {place}, {b} alababa {place2}, y en el fondo ambos hablaban {about}.
Hubo {thing} para quien quiso {plan}, contó {ta} {manner}.
Bajo un banco {ofplace}, {tb} descubrió {thing}.
«{View}», repitió {a}, «y no lo digo por {topic}».
Al final {b} {deed}, lo que no extrañó a quienes sabían algo {about}.
{C} no podía oír {sound} sin pensar en {place}.
Cuando le preguntaron por {topic}, {ta} enseñó {thing}.
{A} se fue por {place}, {b} se quedó con {thing} y {c} {deed}.
Lo primero que se vio en {place} fue {tc} con {thing}.
«No será {hour}», dijo {b}, «ni con {thing}».
La entrada {ofplace} seguía abierta, y se oía {sound}.
Todo lo que {a} sabía {about} se lo había enseñado {tb}.
{Weather}, así que {c} {deed} y leyó en voz alta algo {about}.
A {b} le alegró ver que en {place} seguía habiendo {thing}.
No pudo ser {thing} lo que vio {a} cerca {ofplace}: {weather}.
{A} soñaba a menudo con {place}, siempre {hour}, siempre con {sound}.
La disputa entre {ta} y {tc} había empezado por {thing}.
En vez de contestar, {b} {deed} {manner}.
Con {thing} sobre la mesa, solo quedaba hablar {about}.
{C} recordaba con {feeling} el día en que {a} {deed}.
«¿Ha visto alguien {thing}?», gritó {tb} desde {place}.
Dos veces {b} {deed}, y dos veces respondió solo {sound}.
Cenaron en {place} {manner}, y nadie tocó {thing}.
Desde {place}, {hour}, se oía {sound}.
{A} cambió una vez {thing} por {thing2} y lo llamó prudencia.
Pocas veces quería {b} {plan}; al fin y al cabo, {view}.
{Tc} había visto venir lo {about} con {feeling}.
«Entonces iremos por {place}», decidió {a}, «y llevaremos {thing}».
Debajo de {thing} encontraron una hoja sobre {topic}, con la letra de {b}.
{B} no contestó, porque se oía {sound} y además {weather}.
{Hour} siempre había en {place} alguien seguro de que {view}.
{C} preguntó por {topic}, preguntó por {topic2} y {deed}.
El camino {ofplace} estaba malo, {weather}, y {tb} no llegaba.
{A} vendió {thing}, se quedó con {thing2} y no habló más {about}.
Que {b} quisiera {plan} o no cambiaba poco en lo {about}.
Era un día para {plan}, pensó {c}, no para hablar {about}.
{Ta} les enseñó {thing} y esperó {manner} los aplausos.
«{View}», escribió {b} al margen de un papel sobre {topic}.
Todo en {place} le traía a {a} el recuerdo {about}: {thing}, {sound}, hasta la luz.
Seguían hablando {about} cuando {c} {deed}.
Como {weather}, hubo que llevar {thing} en brazos hasta {place}.
{B} encontró en {place} {thing} y se marchó {manner}.
De muy lejos venía la gente hasta {place} para oír a {a} hablar {about}.
{Tb} llevaba razón: {view}, y ahí estaba {topic} para probarlo.
{A} miró {thing} con {feeling} hasta que {b} {deed}.
{C} nunca pasaba {hour} por {place} sin pararse a oír {sound}.
«Mientras haya {thing} en casa», dijo {tc}, «sobra tiempo para {topic}».
Porque {b} {deed}, los demás perdonaron lo dicho {about}.
Tarde o no, {a} {deed}; {hour} daba lo mismo.
Y así volvió {thing} a su sitio en {place}, y {a}, a hablar {about}.
Una noche {b} {deed}, cogió {thing} y ya no volvió por {place}.
Es difícil decir qué temía más {a}, si {topic} o {sound}.
Con {thing} de por medio, {a} y {c} hablaban {about} {manner}.
Lo {about} era más viejo que el pueblo, y a {c} le despertaba {feeling}.
{A} preguntó a tres personas por dónde se iba hasta {place}; las tres hablaron {about}.
Nadie en {place} sabía más {about} que {tc}.
«Mira {thing}», dijo {c} {manner}: «en eso acaba {topic}».
El suelo {ofplace} estaba mojado, y {b} resbaló con {thing} en la mano.
Cada vez que callaba {sound}, {a} levantaba la vista hacia {place}.
En {place} colgaba un aviso sobre {topic}, con la firma de {a} y de {c}.
Habrían seguido hasta la noche con {topic}, pero {weather}, y eso los mandó a casa.
{B} dijo que {view}; {c} no dijo nada y {deed}.
¿De qué le sirve {thing}, se preguntaba {a}, a quien vive cerca {ofplace}?
Solo {hour} llegó {c} a confesar {feeling}.
{A} le debía a {b} {thing}, y {b} le debía a {a} una explicación sobre {topic}.
Antes de {plan}, {c} {deed} y {deed2}.
«Lo primero es {plan}», dijo {a}; «lo segundo, {plan2}».
{B} tenía la intención de {plan}, pero {weather} y se quedó en {place}.
¿Quién iba a querer {plan} con {thing} a cuestas?
{Hour}, {ta} volvió a prometer que lo suyo era {plan}.
Sin {thing} no había forma de {plan}, según {tb}.
{A} dudaba entre {plan} y {plan2}; al cabo {deed}.
Para {plan}, explicó {c} {manner}, hacen falta {thing} y un poco de suerte.
A {a} le pareció que {view}, y por eso quiso {plan}.
Nadie le había pedido a {b} {plan}, y menos {hour}.
De {plan} ya habría tiempo; ahora, en {place}, tocaba oír {sound}.
Ni {ta} ni {tb} quisieron {plan} por {topic}.""".splitlines()
)
NUMBER_PATTERNS = tuple(
    """{A} pagó {n} reales por {thing}.
El libro de cuentas daba la cifra de {n} para lo {about}.
«Eran {n}», dijo {b}, «y no {n2}».
A la entrada {ofplace} alguien había pintado el número {n}.
{C} contó {n} pasos desde {place} hasta {place2}.
La página {n} del almanaque trataba {about}.
Quedaban {n} sacos en {place}, y {b} {deed}.
El lote con la marca {n} contenía {thing} y {thing2}.
En el año {n}, contaba {ta}, {weather}.
{A} apuntó {n} en un papel y lo escondió debajo de {thing}.
El bulto {n} era para {tb}; el bulto {n2}, para nadie.
La locomotora de la vía muerta llevaba el número {n}, según {c}, que {deed}.
Durante {n} días no se oyó en {place} más que {sound}.
«Vinieron {n} personas», dijo {tc} {manner}, «y todas hablaban {about}».
{B} pedía {n} por {thing}; {a} ofrecía {n2}.
La factura por {topic} subía a {n}.
De las {n} cartas que escribió {c}, casi todas trataban {about}.
La marca de {thing} decía {n}, lo que a {a} no le aclaraba nada.
El vagón {n} iba vacío; en el vagón {n2} viajaba {thing}.
{A} vivía en el número {n}, no lejos {ofplace}.
Sobre la entrada {ofplace} se leía el número {n}, con la pintura gastada.
Faltaban entre {n} y {n2} tejas en los tejados de cerca {ofplace}.
{Tb} recordaba {n} inviernos, o eso decía {manner}.
Junto a {thing} apareció un billete con el número {n}.
El recibo {n} lo firmó {c} {hour}.
Pesaba {n} libras, más que {thing} y {thing2} en la misma balanza.
El telegrama {n} decía solo que {view}.
La galería {n} se cerró por {topic}.""".splitlines()
)
