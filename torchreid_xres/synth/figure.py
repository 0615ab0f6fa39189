"""Draws a ``Person``: poses the joints, hangs the textures on them and renders the whole over a background."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from . import wardrobe
from .canvas import Canvas, Point, View
from .cloth import plain
from .person import Person
from .scene import generator

#: Heights above the ground, body heights.
CHIN, NECK, SHOULDER, KNEE, ANKLE = 0.875, 0.845, 0.791, 0.27, 0.045
#: Lengths of upper arm, forearm and foot.
_UPPER_ARM, _FOREARM, _FOOT = 0.165, 0.145, 0.085
#: How much wider than the body garments hang, and how far they reach below the hip joint.
_LOOSE = {"coat": 1.16, "hoodie": 1.12, "jacket": 1.10}
_BELOW_HIP = {"coat": 0.13, "vest": 0.0, "t-shirt": 0.015, "hoodie": 0.02, "jacket": 0.02, "shirt": -0.01}
_SKIRTS = {"skirt": 0.30, "long skirt": 0.11}
#: How much larger than the head a head of hair is, and how far below the chin it falls.
_VOLUMES = {"crop": 1.05, "curls": 1.34, "bob": 1.16, "long": 1.14}
_FALLS = {"bob": 0.012, "long": 0.075, "curls": -0.02}


@dataclass(frozen=True)
class Pose:
    """One moment of a walk.

    Args:
        phase: of the step, radians.
        stride: amplitude of the legs' swing, radians; 0 stands.
    """

    phase: float
    stride: float

    def leg(self, side: int) -> tuple[float, float]:
        """Return how far a thigh swings forward and how far its knee bends, radians; side is -1 right, 1 left."""
        swing = self.stride * np.sin(self.phase) * side
        return swing, 0.04 + 1.1 * max(0.0, -swing)

    def arm(self, side: int) -> tuple[float, float]:
        """Return the same of an arm, which swings against the leg of its side."""
        swing = -0.75 * self.leg(side)[0]
        return swing, 0.18 + 0.5 * max(0.0, swing)


class Figure:
    """A person with all textures made, ready to be drawn in many poses.

    Args:
        person: who.
        key: seeds the folds of the cloth, see ``scene.generator``.
    """

    def __init__(self, person: Person, *key: int | str) -> None:
        p, rng = person, generator(*key, "folds")
        loose = _LOOSE.get(p.upper, 1.0)
        half, depth = 0.104 * p.shoulders * p.girth, p.girth * loose
        hip, waist = 0.088 * p.hips * p.girth, 0.080 * p.belly * p.girth
        snug = min(loose, 1.08)
        self.person = p
        self._hip = hip
        self._shoulder = half * snug
        self._hem = p.legs - _BELOW_HIP[p.upper]
        #: Height as a share, half width and half depth, from the hem to the neck.
        seat, depth_of_seat, middle = hip * loose, 0.068 * depth, 0.35
        below = [(0.0, seat, depth_of_seat)]
        if p.upper == "coat":
            # A coat is wide at its hem and must clear the hip joints above it.
            below, middle = [(0.0, 1.12 * seat, depth_of_seat), (0.33, 1.10 * seat, 1.1 * depth_of_seat)], 0.50
        self._torso = np.array([
            *below,
            (middle, waist * loose, 0.066 * depth * p.belly),
            (0.72, half * loose * 0.94, 0.072 * depth),
            (0.87, half * snug * 0.97, 0.062 * p.girth),
            (0.95, half * 0.74, 0.050 * p.girth),
            (1.0, 0.040, 0.036),
        ])  # fmt: skip
        self._skin = plain(p.skin)
        self._torso_texture = wardrobe.torso(p, rng, NECK + 0.005 - self._hem)
        self._sleeve, self._leg = wardrobe.sleeve(p, rng), wardrobe.leg(p, rng)
        self._face, self._hair = wardrobe.face(p), wardrobe.hair(p, rng)

    def draw(self, background: np.ndarray, view: View, pose: Pose) -> np.ndarray:
        """Draw the person over a background, float (height, width, 3) in [0, 1], in place, and return it."""
        p = self.person
        _shadow(background, view, 0.15 * p.girth)
        canvas = Canvas(background, view)
        for side in (-1, 1):
            self._draw_leg(canvas, pose, side)
            self._draw_arm(canvas, pose, side)
        self._draw_hips(canvas, pose)
        torso = self._torso.copy()
        if p.upper == "coat":
            # The thighs push its tails apart.
            torso[0, 2] += (p.legs - self._hem) * np.sin(abs(pose.leg(1)[0]))
        canvas.lathe((0, self._hem, 0), (0, NECK + 0.005, 0.006), torso, self._torso_texture)
        if p.belt is not None and p.upper != "coat":
            _, width, depth = self._torso[0] * 1.03
            canvas.lathe((0, self._hem - 0.022, 0), (0, self._hem + 0.004, 0), _tube(width, depth), plain(p.belt))
        canvas.capsule((0, NECK - 0.02, 0), (0, CHIN + 0.03, 0.01), (0.030, 0.028), self._skin)
        self._draw_head(canvas)
        self._draw_bag(canvas, pose)
        return canvas.rgb

    def _draw_leg(self, canvas: Canvas, pose: Pose, side: int) -> None:
        p = self.person
        swing, bend = pose.leg(side)
        pitch = swing - bend
        hip = (side * 0.5 * self._hip, p.legs, 0.0)
        knee = _hang((side * 0.046 * p.girth, p.legs, 0.0), p.legs - KNEE, swing)
        x, y, z = _hang((side * 0.042, *knee[1:]), KNEE - ANKLE, pitch)
        bare = p.lower != "trousers"
        wide, middle = 0.054 * p.girth * (1.12 if p.lower == "shorts" else 1.0), (0.036 if bare else 0.041) * p.girth
        split = int(0.52 * len(self._leg))
        canvas.capsule(hip, knee, (wide, middle), self._leg[:split])
        canvas.capsule(knee, (x, y, z), (middle, 0.022 if bare else 0.034), self._leg[split:])
        heel = (x, y - 0.020, z - 0.012)
        # A foot that lags behind points down; one that is put forward lands flat.
        toe = (x + side * 0.012, y - 0.022 + 0.8 * _FOOT * np.sin(min(pitch, 0.0)), z + _FOOT * np.cos(pitch))
        canvas.capsule(heel, toe, (0.027, 0.022), plain(p.shoes))
        sole = (heel[0], heel[1] - 0.016, heel[2] - 0.004), (toe[0], toe[1] - 0.013, toe[2] + 0.002)
        canvas.capsule(*sole, (0.017, 0.013), plain(p.soles))

    def _draw_hips(self, canvas: Canvas, pose: Pose) -> None:
        p, hip, top = self.person, self._hip, self.person.legs + 0.06
        if p.lower in _SKIRTS:
            hem, flare = _SKIRTS[p.lower], hip * (1.25 + 0.8 * pose.stride)
            profile = np.array([(0, flare, 0.85 * flare), (0.6, 1.12 * hip, 0.085), (1, 0.96 * hip, 0.062)])
            canvas.lathe((0, hem, 0), (0, top, 0), profile, wardrobe.skirt(p, top - hem))
        else:
            seat = np.array([(0, 0.80 * hip, 0.056), (0.5, hip, 0.066), (1, 0.92 * hip, 0.060)]) * (1, 1, p.girth)
            canvas.lathe((0, p.legs - 0.055, 0), (0, top, 0), seat, plain(p.lower_colour))

    def _arm(self, pose: Pose, side: int) -> tuple[Point, Point, Point]:
        """Return elbow, wrist and finger tips."""
        swing, bend = pose.arm(side)
        elbow = _hang((side * (self._shoulder + 0.012), SHOULDER, 0.0), _UPPER_ARM, swing)
        hand = (side * (self._shoulder + 0.014), *elbow[1:])
        return elbow, _hang(hand, _FOREARM, swing + bend), _hang(hand, 1.22 * _FOREARM, swing + bend)

    def _draw_arm(self, canvas: Canvas, pose: Pose, side: int) -> None:
        p, half = self.person, len(self._sleeve) // 2
        bare = p.upper in ("t-shirt", "vest")
        elbow, wrist, hand = self._arm(pose, side)
        shoulder = (side * (self._shoulder - 0.010), SHOULDER, 0.0)
        wide, middle = (0.034 if p.upper in _LOOSE else 0.030) * p.girth, (0.023 if bare else 0.028) * p.girth
        canvas.capsule(shoulder, elbow, (wide, middle), self._sleeve[:half])
        canvas.capsule(elbow, wrist, (middle, 0.017 if bare else 0.023), self._sleeve[half:])
        canvas.capsule(wrist, hand, (0.016, 0.019), self._skin)

    def _draw_head(self, canvas: Canvas) -> None:
        p = self.person
        low, high, forward = CHIN - 0.012, 0.988, 0.012
        t = np.linspace(0, 1, 9)
        # Narrower at the chin than at the skull.
        outline = np.sqrt(np.maximum(1 - (2 * t - 1) ** 2, 0)) * np.interp(t, (0, 0.6, 1), (0.80, 1, 1))
        head = np.stack([t, 0.053 * outline, 0.058 * outline], 1)
        canvas.lathe((0, low, forward), (0, high, forward), head, self._face)
        if p.hair_style != "bald":
            swell = _VOLUMES.get(p.hair_style, 1.10)
            shell = head * (1, swell, swell)
            if p.hair_style in _FALLS:
                # Long hair falls straight instead of closing under the chin.
                shell[:5, 1:] = shell[5, 1:] * (0.96 if p.hair_style == "long" else 1.0)
            bottom, top = low - _FALLS.get(p.hair_style, 0.0), high + 0.012 * swell
            canvas.lathe((0, bottom, forward - 0.005), (0, top, forward - 0.005), shell, self._hair)
        strand = plain(p.hair)
        if p.hair_style == "ponytail":
            canvas.capsule((0, 0.955, -0.05), (0, 0.84, -0.085), (0.020, 0.012), strand)
        elif p.hair_style == "bun":
            canvas.capsule((0, 0.985, -0.035), (0, 0.995, -0.045), (0.028, 0.026), strand)
        if p.hat != "none":
            dome = np.sqrt(1 - t**2) * (1.22 if p.hair_style == "curls" else 1.12)
            crown = np.stack([t, 0.053 * dome, 0.060 * dome], 1)
            canvas.lathe((0, 0.940, forward - 0.004), (0, 1.004, forward - 0.004), crown, plain(p.hat_colour))
        if p.hat == "cap":
            canvas.capsule((0, 0.944, 0.05), (0, 0.938, 0.098), (0.030, 0.020), 0.8 * plain(p.hat_colour))

    def _draw_bag(self, canvas: Canvas, pose: Pose) -> None:
        p, body = self.person, plain(self.person.bag_colour)
        # A darker flap on top, a darker bottom.
        stuff = np.repeat([0.7, 1.0, 0.8], (3, 8, 5)).astype(np.float32)[:, None, None] * body
        if p.bag == "backpack":
            z = -self._torso[-4, 2] - 0.035
            shape = np.array([(0, 0.070, 0.036), (0.12, 0.084, 0.048), (0.8, 0.078, 0.045), (1, 0.045, 0.025)])
            canvas.lathe((0, 0.585, z), (0, 0.80, z), shape, stuff)
        elif p.bag == "shoulder bag":
            x = p.bag_side * (self._hip + 0.018)
            canvas.lathe((x, 0.45, 0.012), (x, 0.565, 0.012), _tube(0.024, 0.064), stuff)
        elif p.bag == "waist bag":
            z = self._torso[-5, 2] + 0.018
            canvas.lathe((0, self._hem + 0.008, z), (0, self._hem + 0.066, z), _tube(0.055, 0.024), stuff)
        elif p.bag == "handbag":
            x, y, z = self._arm(pose, p.bag_side)[2]
            for forward in (-0.025, 0.025):
                canvas.capsule((x, y, z), (x, y - 0.06, z + forward), (0.005, 0.005), body)
            canvas.lathe((x, y - 0.15, z), (x, y - 0.055, z), _tube(0.020, 0.056), stuff)


def _hang(joint: Point, length: float, angle: float) -> Point:
    """Return the lower end of a bone that hangs from a joint, swung forward by an angle."""
    x, y, z = joint
    return x, y - length * np.cos(angle), z + length * np.sin(angle)


def _tube(width: float, depth: float) -> np.ndarray:
    return np.array([(0.0, width, depth), (1.0, width, depth)])


def _shadow(rgb: np.ndarray, view: View, reach: float) -> None:
    """Darken the ground around the feet, drawn out away from the light."""
    height, width = rgb.shape[:2]
    reach *= view.scale
    x = (np.arange(width) + 0.5 - view.foot[0] + 0.5 * view.light[0] * reach) / (1.5 * reach)
    y = (np.arange(height)[:, None] + 0.5 - view.foot[1] + 4) / (0.22 * reach)
    rgb *= (1 - 0.5 * np.exp(-(x * x + y * y)))[..., None].astype(np.float32)
