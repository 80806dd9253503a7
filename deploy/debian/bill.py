"""The bill of what a package bundles: CycloneDX for programs; `copyright` and the licences' texts for people."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.metadata import Distribution, PathDistribution
from pathlib import Path

from cyclonedx.factory.license import LicenseFactory
from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.model.contact import OrganizationalEntity
from cyclonedx.output.json import JsonV1Dot6
from packageurl import PackageURL

_LICENCE_NAMES = ("licen", "copying", "notice", "authors")
_CLASSIFIER = "License :: "
_LONGEST = 100


def bundled(site: Path) -> list[Distribution]:
    """The distributions in a directory of packages, by name."""
    found = [PathDistribution(path) for path in site.glob("*.dist-info")]
    return sorted(found, key=lambda each: each.metadata["Name"].lower())


def licence_of(distribution: Distribution) -> str:
    """What its metadata says, in SPDX's terms if it does."""
    about = distribution.metadata
    said = about.get("License-Expression") or about.get("License") or ""
    line = said.strip().splitlines()[0] if said.strip() else ""
    if line and len(line) <= _LONGEST:
        return line
    classified = [each.rpartition(" :: ")[2] for each in about.get_all("Classifier") or () if _CLASSIFIER in each]
    return " AND ".join(classified) or "see its files"


def bill_of_materials(package: str, version: str, distributions: list[Distribution]) -> str:
    """CycloneDX 1.6, as JSON. The same package has the same bill."""
    factory = LicenseFactory()
    bom = Bom()
    supplier = OrganizationalEntity(name="fedprune")
    whole = Component(name=package, version=version, type=ComponentType.APPLICATION, supplier=supplier)
    bom.metadata.component = whole
    parts = []
    for each in distributions:
        url = PackageURL("pypi", None, each.metadata["Name"].lower(), each.version)
        licences = [factory.make_from_string(licence_of(each))]
        part = Component(
            name=each.metadata["Name"],
            version=each.version,
            type=ComponentType.LIBRARY,
            purl=url,
            bom_ref=str(url),
            licenses=licences,
        )
        bom.components.add(part)
        parts.append(part)
    bom.register_dependency(whole, parts)
    return str(JsonV1Dot6(bom).output_as_string(indent=2))


def copyright_file(distributions: list[Distribution]) -> str:
    """Debian's machine-readable form. The texts themselves lie beside it."""
    head = "Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/\nUpstream-Name: fedprune\n"
    own = "Files: *\nCopyright: the fedprune authors\nLicense: Apache-2.0\n The text is in /usr/share/common-licenses."
    parts = [head, own]
    for each in distributions:
        name = each.metadata["Name"]
        parts.append(
            f"Files: usr/lib/*/site-packages/{name.replace('-', '_')}*\n"
            f"Copyright: the authors of {name} {each.version}\n"
            f"License: {licence_of(each)}\n The texts are in licences/{name} beside this file."
        )
    return "\n\n".join(parts) + "\n"


def licence_texts(distribution: Distribution) -> Iterator[Path]:
    """The files of a distribution that say how it may be used."""
    for file in distribution.files or ():
        if file.name.lower().startswith(_LICENCE_NAMES) and ".dist-info" in str(file):
            yield Path(str(distribution.locate_file(file)))
