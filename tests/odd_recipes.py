"""Recipes that nobody would write: drawn from the schema of recipes, or shipped and then changed.

What is drawn depends on the random source alone.
"""

import copy

from prefdata.recipe.schema import Recipe

SCHEMA = Recipe.model_json_schema()
HUGE = 2**63
ODD = [
    None, True, False, 0, -1, 1, 2, 0.5, -0.5, 1e-320, 1e308, float("inf"), float("nan"),
    HUGE, -HUGE, 10**30, "", " ", "\u200b", "0", "1", "true", "null", "a b", "A", "é", "e\u0301",
    "\U0001f600", "\0", "\ud800", "..", "/", "~", "no/such", "*", "**", "?", "[", "a" * 300,
    "{{", "{{ }}", "{% if %}", "{{ prompt }}", "{{ 1 / 0 }}", "{{ prompt.nothing.more }}",
    "{{ id }}", "{% for x in prompt %}{{ x }}{% endfor %}", "${", "${}", "${nothing}", "${seed}",
    "${output_dir}", "${oc.env:NO_SUCH_VARIABLE}", "???", "(", "(?P<a>x)", "(?P<prompt>.*)", "\\",
    "json:loads", "json:nothing", "no_such_module:f", "json", [], {}, [[]], [{}], [None], [""],
    ["prompt"],    ["prompt", "prompt"], {"": ""}, {"type": "object"}, {"type": "nothing"},
    {"a": {"b": {"c": []}}}, [1, "a", None, {}], {"prompt": 1},
]  # fmt: skip
"""Values that a reader of recipes may stumble over. No number between: a row count or a number of
samples may be as large as somebody wants, and takes as long."""
FEW = (0, 1, 2, 3, 7)
LIKELY = {
    "candidates": ["candidates"], "score": ["reward", "right"],
    "pattern": [r"(?P<first>\w+)(?P<rest>.*)", r"(?P<number>\d+)", "(?P<a>a*)*b"],
}  # fmt: skip
"""What mostly stands in fields of such names."""


class Drawer:
    """Draws values for places of the schema, preferring names that a recipe already has."""

    def __init__(self, random, names=("prompt",), aliases=("bold",)):
        self._random, self._names, self._aliases = random, [*names], [*aliases]
        self._strings = self._names

    def recipe(self, base):
        """A recipe of any form that the schema allows; mostly one that grew from another.

        Args:
            base: a recipe, to which columns and pair rules are added that are drawn.
        """
        if self._random.random() < 0.1:
            return self.value(SCHEMA)
        made = copy.deepcopy(base)
        self._names = ["prompt", "answer", *(column["name"] for column in made["columns"])]
        self._strings = self._names
        self._aliases = [model["alias"] for model in made["models"]]
        for number in range(self._random.choice([0, 1, 1, 2])):
            column = self.value(SCHEMA["properties"]["columns"]["items"])
            if isinstance(column, dict):
                column["name"] = f"c{number}"
                self._names += [column["name"]] * 2
            made["columns"].insert(self._random.randint(0, len(made["columns"])), column)
        rules = self.value(SCHEMA["properties"]["output_projection"])
        if isinstance(rules, dict) and self._random.random() < 0.9:
            rules = made["output_projection"] | rules
        made["output_projection"] = rules
        return made

    def value(self, schema, depth=0):
        schema = resolved(schema)
        if self._random.random() < 0.006 or depth > 8:
            return copy.deepcopy(self._random.choice(ODD))
        if "const" in schema:
            return schema["const"]
        if "enum" in schema:
            return self._random.choice(schema["enum"])
        for key in ("anyOf", "oneOf", "allOf"):
            if key in schema:
                return self.value(self._random.choice(schema[key]), depth)
        return getattr(self, f"_{schema.get('type', 'anything')}")(schema, depth)

    def _anything(self, schema, depth):
        return copy.deepcopy(self._random.choice(ODD))

    def _null(self, schema, depth):
        return None

    def _boolean(self, schema, depth):
        return self._random.random() < 0.5

    def _integer(self, schema, depth):
        return schema.get("minimum", 0) + self._random.choice(FEW)

    def _number(self, schema, depth):
        low = schema.get("minimum", schema.get("exclusiveMinimum", 0))
        high = schema.get("maximum", schema.get("exclusiveMaximum", low + 2))
        between = round(self._random.uniform(low, high), 2)
        return self._random.choice([low, high, between, between, between])

    def _string(self, schema, depth):
        if self._random.random() < 0.95:
            name = self._random.choice(self._strings)
            return self._random.choice([name, name, f"{{{{ {name} }}}}"])
        return self._random.choice([one for one in ODD if isinstance(one, str)])

    def _array(self, schema, depth):
        if "prefixItems" in schema:
            return [self.value(part, depth + 1) for part in schema["prefixItems"]]
        low = schema.get("minItems", 0)
        count = self._random.choice([low, low + 1, low + 2, low + 3])
        return [self.value(schema.get("items", {}), depth + 1) for _ in range(count)]

    def _object(self, schema, depth):
        known, needed = schema.get("properties", {}), schema.get("required", [])
        made = {}
        optional = [name for name in known if name not in needed]
        count = min(len(optional), self._random.choice([0, 0, 1, 1, 2, 3]))
        chosen = {*needed, *self._random.sample(optional, count)}
        for name, part in known.items():
            if name in chosen:
                likely = LIKELY | {"model_alias": self._aliases}
                self._strings = likely.get(name, self._names)
                made[name] = self.value(part, depth + 1)
        if not known and isinstance(schema.get("additionalProperties"), (dict, bool)):
            more = schema["additionalProperties"]
            for _ in range(self._random.choice([0, 1, 2])):
                name = self._random.choice(self._names)
                made[name] = self.value(more if isinstance(more, dict) else {}, depth + 1)
        return made


def changed(recipe, random):
    """A recipe with one value changed, taken away or added; also the place and what was done."""
    recipe = copy.deepcopy(recipe)
    places = [*walk(recipe)]
    path = random.choice([place for place in places if place])
    holder = at(recipe, path[:-1])
    draw = Drawer(random, names_of(recipe))
    what = random.choices(["odd", "drawn", "gone", "added", "copied"], [9, 3, 2, 4, 2])[0]
    if what == "odd":
        holder[path[-1]] = copy.deepcopy(random.choice(ODD))
    elif what == "drawn":
        holder[path[-1]] = draw.value(schema_at(recipe, path))
    elif what == "gone":
        del holder[path[-1]]
    elif what == "copied":
        holder[path[-1]] = copy.deepcopy(at(recipe, random.choice(places)))
    else:
        objects = [place for place in places if isinstance(at(recipe, place), dict)]
        path = random.choice(objects)
        known = schema_at(recipe, path).get("properties") or {"more": {}}
        name = random.choice([*known])
        at(recipe, path)[name] = draw.value(known[name])
        path = (*path, name)
    return recipe, f"{what} {'.'.join(map(str, path))}"


def walk(value, path=()):
    """The path of every value, from the whole to the leaves."""
    yield path
    if isinstance(value, (dict, list)):
        for key, part in value.items() if isinstance(value, dict) else enumerate(value):
            yield from walk(part, (*path, key))


def at(value, path):
    for key in path:
        value = value[key]
    return value


def names_of(recipe):
    """Every short text of a recipe: its aliases, columns, fields, words."""
    found = {at(recipe, path) for path in walk(recipe) if isinstance(at(recipe, path), str)}
    return sorted(text for text in found if len(text) < 30) or ["prompt"]


def schema_at(recipe, path):
    """The schema of a place in a recipe; one that allows everything where there is none."""
    schema, value = SCHEMA, recipe
    for key in path:
        schema, value = _inner(_form(schema, value), key), value[key]
    return _form(schema, value)


def _form(schema, value):
    """Of several forms the one that the value has."""
    schema = resolved(schema)
    forms = schema.get("anyOf") or schema.get("oneOf") or ()
    if "discriminator" in schema and isinstance(value, dict):
        mapping = schema["discriminator"]["mapping"]
        kind = value.get("type", next(iter(mapping)))
        return resolved({"$ref": mapping.get(kind, next(iter(mapping.values())))})
    kinds = {dict: "object", list: "array"}
    for form in map(resolved, forms):
        if form.get("type") == kinds.get(type(value)):
            return form
    return schema


def _inner(schema, key):
    if isinstance(key, int):
        return schema.get("items", {})
    more = schema.get("additionalProperties")
    return schema.get("properties", {}).get(key, more if isinstance(more, dict) else {})


def resolved(schema):
    while "$ref" in schema:
        schema = SCHEMA["$defs"][schema["$ref"].rsplit("/", 1)[1]]
    return schema
