"""Organs of a generated abdomen as smooth signed fields (see `fields`) that lean against one another.

Everything is drawn in the standard torso (see `patient`) and scaled, rotated and warped to the patient.
T thin layers of all slices; h, w rows and columns of the coarse grid on which the fields are evaluated.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..fields import Field, ellipsoid, intersection, smooth_noise, superellipse, tube, union
from ..rotations import rotation
from .patient import Patient, ScanGrid

CELL = 3.2
"""Distance between the points of the coarse grid, mm."""


class AbdomenBody:
    """Evaluates the fields of a patient, (T, h, w) float32 each, one after another.

    Attributes x, y, z are the coordinates of each point in the standard torso, mm.
    """

    def __init__(self, patient: Patient, grid: ScanGrid, random: np.random.Generator) -> None:
        self.patient, self.random = patient, random
        self.axes = grid.axes(min(grid.side, round(grid.side * grid.pixel / CELL)))
        z, y, x = self.axes
        turn = (rotation(*patient.turn).T / np.array(patient.scale)[:, None]).astype(np.float32)
        places = (x[None, None, :], y[None, :, None], z[:, None, None])
        self.x, self.y, self.z = (
            row[0] * places[0] + row[1] * places[1] + row[2] * places[2] + 3.5 * self.noise(70)
            for row in turn
        )
        self.fields: dict[str, Field] = {}

    def noise(self, length: float) -> Field:
        """Smooth random field of unit variance that changes over `length` mm."""
        return smooth_noise(self.random, self.axes, length)

    def jitter(self, *spread: float) -> np.ndarray:
        """Normal random numbers of standard deviations `spread`, none beyond twice that."""
        return np.clip(self.random.normal(size=len(spread)), -2, 2) * spread

    def organ_fields(self) -> dict[str, Field]:
        """All fields by name. Call it once: it draws random numbers."""
        self._wall()
        self._spine()
        self.z = self.z + np.float32(self.patient.breath)
        self._diaphragm()
        self._great_vessels()
        self._kidneys()
        self._stomach()
        self._liver()
        self._spleen()
        self._bowel()
        return self.fields

    def ellipsoid(
        self, center: Sequence[float] | np.ndarray, radii: Sequence[float] | np.ndarray, *turn: float
    ) -> Field:
        """Field of an ellipsoid in the standard torso; turn: degrees about x, y, z."""
        return ellipsoid(self.x, self.y, self.z, center, radii, rotation(*turn) if turn else None)

    def tube(self, *path: Sequence[float], soft: float = 6) -> Field:
        """Field of a tube in the standard torso through points (x, y, z, radius)."""
        return tube(self.x, self.y, self.z, path, soft)

    def _wall(self) -> None:
        """Skin, fat, muscle, ribs and the cavity within."""
        x, y, z, fat = self.x, self.y, self.z, self.patient.fat
        cavity = superellipse(x, y, (131, 84), 2.35) + 2 * self.noise(60)
        outer = superellipse(x, y - 11, (142, 105), 2.3)
        groove = 5 * np.exp(-np.square(x / 22)) * (y > 0)
        skin = superellipse(x, y - 11, (143 + fat, 106 + 0.75 * fat), 2.25) + groove + 1.5 * self.noise(60)
        septum = np.abs(self.noise(16)) - np.where(y < 60, np.float32(0.04), np.float32(0.14))
        self.fields |= {"septum": septum, "cavity": cavity, "muscle_wall": outer + 0.5 * groove, "skin": skin}
        angle = np.arctan2(np.abs(x), y) / np.float32(np.pi)  # 0 at the spine, 1 at the sternum
        spacing = 34 + float(self.jitter(1.5)[0])
        level = z + 125 * angle + float(self.random.uniform(0, spacing))
        margin = -72 + 120 * angle - z
        rib = np.abs(np.mod(level, spacing) - spacing / 2) - 6.0
        shell = np.abs(cavity - 5.0) - 3.6
        rib = np.maximum(intersection(rib, shell, 4), margin)
        rib = np.maximum(rib, np.maximum(0.09 - angle, angle - 0.84) * 150)
        self.fields["rib"] = rib

    def _spine(self) -> None:
        """Vertebrae with discs, canal, cord and processes; the muscles beside them."""
        x, y, z = self.x, self.y, self.z
        tall = 34 + float(self.jitter(1.5)[0])
        phase = np.mod(z + float(self.random.uniform(0, tall)), tall) - tall / 2
        wide, deep = 21 + self.jitter(1.2, 1.0)
        waist = 2.0 * np.cos(phase * np.float32(2 * np.pi / tall))
        column = superellipse(x, y - 53, (wide, deep - 4), 2.3) + waist
        gap = tall / 2 - 3.6 - np.abs(phase)  # negative within a disc
        canal = np.hypot(x / 1.25, y - 79) - 7.2
        process = np.maximum(np.abs(x) - 3.2 - 0.06 * np.maximum(y - 92, 0), np.abs(y - 98) - 14)
        process = np.maximum(process, np.abs(phase + 4) - 11)
        arch = np.maximum(np.abs(np.hypot(x / 1.2, y - 79) - 10.5) - 3.4, np.abs(phase + 2) - 11)
        wing = np.maximum(np.abs(y - 80 - 0.12 * np.abs(x)) - 4.2, np.abs(phase + 1) - 6)
        wing = np.maximum(np.maximum(wing, np.abs(x) - 36), 9 - np.abs(x))
        bone = union(union(process, arch, 3), wing, 3)
        self.fields |= {
            "vertebra": np.maximum(column, -gap),
            "disc": np.maximum(column + 0.6, gap),
            "arch": np.maximum(bone, -canal),
            "canal": canal,
            "cord": np.hypot(x / 1.2, y - 79.5)
            - np.where(z > -10, np.float32(4.4), np.float32(0.1))
            - 0.8 * self.noise(40),
        }
        right, left = (
            self.ellipsoid((side * 33, 97, -20), (29, 21, 300), 0, 0, side * 8) for side in (-1, 1)
        )
        thick = np.clip(12 + (-z) * 0.13, 2, 27).astype(np.float32)
        psoas = np.hypot(np.abs(x) - 24 - 0.65 * thick, (y - 58) / 1.1) - thick
        flank = np.maximum(superellipse(np.abs(x) - 66, y - 80, (26, 8), 2.2), z + 25)
        self.fields["muscle"] = np.minimum(np.minimum(union(right, left, 4), psoas), flank)
        crus = np.hypot((np.abs(x) - 15) / 0.8, y - 38) - np.clip(4.5 + 0.05 * z, 1, 8)
        self.fields["muscle"] = np.minimum(self.fields["muscle"], crus + 0.8 * self.noise(18))

    def _diaphragm(self) -> None:
        """The space below the diaphragm, the lungs and the heart above it."""
        up = self.jitter(6, 6)
        right = self.ellipsoid((-64, -6, 2), (82, 84, 80 + up[0]))
        left = self.ellipsoid((66, -2, -2), (78, 82, 76 + up[1]))
        domes = union(right, left, 24)
        below = union(domes, self.z - 0.26 * (84 - self.y) + 16, 20) + 1.5 * self.noise(35)
        self.fields["below"] = below
        cavity = self.fields["cavity"]
        self.fields["lung"] = np.maximum(cavity + 0.6, 1.2 - below)
        around = np.maximum(np.hypot(self.x * 0.75, self.y - 32) - 27, 3 - below)
        heart = self.ellipsoid((18, -22, 112), (62, 46, 46), 0, 25, 15)
        self.fields |= {"mediastinum": union(around, heart - 3, 10), "heart": np.maximum(heart, 4 - below)}
        chamber = self.ellipsoid((26, -18, 114), (44, 30, 30), 0, 25, 15)
        self.fields["chamber"] = np.maximum(chamber, 4 - below) + 5 * self.noise(22)

    def _great_vessels(self) -> None:
        """Aorta and vena cava in front of the spine; portal, splenic and mesenteric veins; the pancreas."""
        wave = 3 * np.sin(self.z * np.float32(0.022) + np.float32(self.random.uniform(0, 6)))
        wide = float(np.clip(self.random.normal(10.5, 1.2), 8, 14))
        taper = np.clip(1 + self.z * 0.0016, 0.78, 1.18)
        lean = 0.10 * np.maximum(self.z - 10, 0)
        self.fields["aorta"] = np.hypot(self.x - 11 - wave, self.y - 21 - lean) - wide * taper
        flat = float(self.random.uniform(0.75, 1.0))
        lean = 0.10 * np.maximum(self.z, 0)
        cava = np.hypot((self.x + 21 + 0.5 * wave), (self.y - 18 + lean) / flat) - 11.5
        self.fields["cava"] = np.maximum(cava, -7 - self.fields["below"])
        portal = self.tube((2, -2, -22, 6), (-22, -8, -2, 7), (-44, -8, 12, 6))
        splenic = self.tube((2, -2, -18, 5), (36, 6, -2, 4.5), (76, 20, 16, 4))
        mesenteric = self.tube((2, -4, -20, 5), (-2, -22, -70, 4.5), (-4, -26, -140, 4))
        self.fields["vein"] = np.minimum(np.minimum(portal, splenic), mesenteric)
        radii = (10 + self.jitter(1)[0]) * np.array([1.25, 0.95, 0.9, 0.85])
        places = [(-24, -12, -32), (4, -14, -16), (40, -2, -4), (74, 14, 12)]
        path = [(*place, radius) for place, radius in zip(places, radii, strict=True)]
        self.fields["pancreas"] = self.tube(*path) + 1.6 * self.noise(9)

    def _kidneys(self) -> None:
        """Bean-shaped kidneys, poles leaning to the spine, hilum turned to the front; the right one is lower."""
        alike = np.exp(self.jitter(0.06)[0])
        for name, side in (("right", -1), ("left", 1)):
            lower = -40 if side < 0 else -26
            center = np.array([side * 66, 46, lower]) + self.jitter(4, 4, 9) * (side, 1, 1)
            size = alike * np.exp(self.jitter(0.03, 0.04, 0.04, 0.05))
            radii = np.array([30, 27, 57]) * size[0] * size[1:]
            pitch, yaw, roll = (self.jitter(spread)[0] for spread in (5, 5, 10))
            tilt = rotation(pitch + 8, -side * (14 + yaw), side * (-38 + roll))
            cx, cy, cz = center.astype(np.float32)
            px, py, pz = self.x - cx, self.y - cy, self.z - cz
            local = [row[0] * px + row[1] * py + row[2] * pz for row in tilt.T.astype(np.float32)]
            inward = np.float32(-side) * local[0] + np.square(local[2]) / 340 - 4  # poles bend inwards
            kidney = ellipsoid(-inward, local[1], local[2], (0, 0, 0), radii) + 1.1 * self.noise(20)
            sinus = ellipsoid(inward, local[1], local[2], (19, 0, 0), (17, 9, 23)) + 1.8 * self.noise(9)
            pelvis = ellipsoid(inward, local[1], local[2], (20, 1, -4), (13, 5, 12)) + 1.2 * self.noise(8)
            self.fields[f"medulla_{name}"] = np.maximum(kidney + 7 + 3.5 * self.noise(8), 1.5 - sinus)
            self.fields[f"kidney_{name}"] = intersection(kidney, -sinus, 3)
            self.fields[f"sinus_{name}"] = sinus
            self.fields[f"pelvis_{name}"] = np.maximum(pelvis, sinus + 1)
            hilum = center + tilt @ (np.array([-side * 24, 0, 4]))
            end = (-17, 16) if side < 0 else (-12, 6)
            vein = self.tube((*hilum, 3.5), (side * 28, 14, hilum[2] + 4, 4.5), (*end, hilum[2] + 6, 5))
            self.fields["vein"] = np.minimum(self.fields["vein"], np.maximum(vein, -kidney - 3))

    def _stomach(self) -> None:
        """From under the left dome to the pylorus right of the middle."""
        full = 0.62 + 0.5 * self.patient.full
        low = -12 - 22 * self.random.uniform()
        bend = self.jitter(6, 6, 6, 6)
        path = [
            (62 + bend[0], 12, 42, 39 * full), (64 + bend[1], -14, 18, 33 * full), (46 + bend[2], -44, low, 25 * full),
            (4 + bend[3], -50, low - 6, 20 * full), (-22, -34, -20, 13),
        ]  # fmt: skip
        space = np.maximum(self.fields["cavity"] + 5, self.fields["below"] + 3)
        stomach = intersection(self.tube(*path, soft=16), space, 6)
        self.fields["stomach"] = np.maximum(stomach + 1.8 * self.noise(20), 3 - self.fields["aorta"])

    def _liver(self) -> None:
        """The liver, filling the right half under the diaphragm up to its neighbors, and the gallbladder."""
        x, y, z = self.x, self.y, self.z
        space = intersection(self.fields["cavity"] + 0.8, self.fields["below"] + 0.3, 5)
        big = float(self.jitter(9)[0])
        hilar = (0.70 * (x + 4) + 0.40 * y - 0.56 * z - big) / 0.98 + 0.0016 * np.square(y + 8)
        lower = -z - 22 + 0.62 * x - 0.1 * y - big + float(self.jitter(7)[0])
        liver = (
            intersection(intersection(space, hilar, 26), lower, 22)
            + 2.6 * self.noise(30)
            + 1.2 * self.noise(14)
        )
        lobe = float(52 + self.jitter(14)[0])
        liver = intersection(liver, x - lobe, 24)
        at = np.array([-38, -43, -40]) + self.jitter(7, 6, 6)
        pear = self.random.uniform(0.8, 1.2) * np.array([14.5, 14.5, 17])
        neck = self.tube(
            (*at, pear[0] * 0.75), (*np.add(at, (8, 16, 18)), 6.5), (*np.add(at, (14, 24, 26)), 4)
        )
        gall = union(self.ellipsoid(at, pear), neck, 8) + 0.8 * self.noise(14)
        for name, gap in (
            ("kidney_right", 2.0), ("stomach", 0.5), ("cava", 0.3), ("aorta", 4), ("vertebra", 6), ("vein", 0.5)
        ):  # fmt: skip
            liver = intersection(liver, gap - self.fields[name], 5)
        self.fields["gallbladder"] = np.maximum(gall, self.fields["cavity"] + 4)
        self.fields["liver"] = np.maximum(liver, 0.3 - self.fields["gallbladder"])
        crease = self.tube((-6, -74, -20, 3.2), (-4, -58, 4, 3), (-2, -40, 14, 2.5))
        self.fields["liver"] = intersection(self.fields["liver"], -crease, 3)

    def _spleen(self) -> None:
        """A crescent between the stomach, the left kidney and the ribs behind."""
        space = intersection(self.fields["cavity"] + 0.8, self.fields["below"] + 0.5, 5)
        radii = np.array([46, 54, 58]) * np.exp(self.jitter(0.12)[0]) * np.exp(self.jitter(0.06, 0.08, 0.1))
        at = np.array([116, 40, 20]) + self.jitter(5, 6, 7)
        form = self.ellipsoid(at, radii, *self.jitter(8, 8), -20 + self.jitter(12)[0]) + 2.2 * self.noise(24)
        spleen = intersection(space, form, 10)
        hollow = self.ellipsoid(np.add(at, (-58, -28, -4)), (44, 40, 60))
        spleen = intersection(spleen, -hollow, 8)
        for name, gap in (("kidney_left", 2.5), ("stomach", 1.0)):
            spleen = intersection(spleen, gap - self.fields[name], 4)
        self.fields["spleen"] = spleen

    def _bowel(self) -> None:
        """The colon along the edge: up the right side, across, down the left; small bowel within."""
        r = 15 + 6 * self.patient.full
        j = self.jitter(*[6] * 8)
        path = [
            (-104 + j[0], 26, -150, r + 4), (-102, 20 + j[1], -70, r + 2), (-88, -20, -52 + j[2], r),
            (-40, -62, -62 + j[3], r - 1), (24, -64, -54 + j[4], r - 2), (90, -26, 4, r - 3),
            (106, 20 + j[5], -22, r - 5), (108 + j[6], 30, -80, r - 6), (104 + j[7], 34, -150, r - 6),
        ]  # fmt: skip
        pouches = 2.6 * self.noise(11)
        space = self.fields["cavity"] + 4
        self.fields["colon"] = np.maximum(self.tube(*path) + pouches, space)
        self.fields["stool"] = self.noise(7)
        middle = np.hypot(self.x / 1.15, self.y + 40) - 84
        where = intersection(intersection(space + 1, self.z + 0.25 * self.x + 2, 20), middle, 20)
        gaps = 10 * (self.noise(26) + self.patient.inner * 1.6 - 0.9)
        self.fields["loops"] = np.maximum(where, gaps)
        self._loops(self.fields["loops"] < 3)

    def _loops(self, inside: np.ndarray) -> None:
        """Small bowel as cells around scattered seeds: distance to the next loop, and the content of each."""
        from scipy.spatial import cKDTree

        bend = [9 * self.noise(30)[inside] for _ in range(2)]
        x, y, z = (axis[inside] for axis in (self.x, self.y, self.z))
        points = np.stack([x + bend[0], 1.35 * y + bend[1], 1.2 * z], 1)
        steps = [np.arange(-130, 131, 34), np.arange(-130, 80, 31), np.arange(-230, 40, 29)]
        lattice = np.stack(np.meshgrid(*steps, indexing="ij"), -1).reshape(-1, 3)
        seeds = lattice + self.random.uniform(-11, 11, lattice.shape)
        near, which = cKDTree(seeds).query(points, k=2)
        gap, content = np.full_like(self.x, 9), np.zeros_like(self.x)
        gap[inside] = np.minimum(near[:, 1] - near[:, 0], 1.5 * (19 - near[:, 0]))
        content[inside] = self.random.uniform(size=len(seeds))[which[:, 0]]
        self.fields |= {"loop_wall": gap, "loop_content": content}
