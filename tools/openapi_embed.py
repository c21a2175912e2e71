"""Print a C header that holds an OpenAPI file (YAML) as compact JSON."""
import json
import sys

import yaml

WIDTH = 90


def main():
    with open(sys.argv[1], encoding="utf-8") as file:
        text = json.dumps(yaml.safe_load(file), separators=(",", ":"), ensure_ascii=True)
    print("/* Made by tools/openapi_embed.py; not edited by hand. */")
    print("static const char openapi_json[] =")
    for at in range(0, len(text), WIDTH):
        piece = text[at:at + WIDTH].replace("\\", "\\\\").replace('"', '\\"')
        print(f'    "{piece}"')
    print("    ;")


if __name__ == "__main__":
    main()
