"use strict";
// What follows the sizes of Dims, in whole numbers of any length.
const formulas = (() => {
  // A formula is a list of terms, each a number and its factors: the place of a Dim, or [sign, …] of other formulas.
  const signs = {
    "//": ([terms, by], sizes) => value(terms, sizes) / BigInt(by),
    min: (listed, sizes) => listed.map((terms) => value(terms, sizes)).reduce((a, b) => (b < a ? b : a)),
    max: (listed, sizes) => listed.map((terms) => value(terms, sizes)).reduce((a, b) => (b > a ? b : a)),
  };
  const factor = (part, sizes) => (typeof part === "number" ? sizes[part] : signs[part[0]](part.slice(1), sizes));
  function value(terms, sizes) {
    return terms.reduce((total, [count, ...parts]) => total + parts.reduce((made, part) => made * factor(part, sizes), BigInt(count)), 0n);
  }

  // Where buffers lie that live from one launch to another, and the bytes of it all: place() in codegen/memory/arena.py.
  function place(spans, alignment = 256n) {
    const offsets = new Map();
    let bytes = 0n;
    const largestFirst = spans.map((_, number) => number).sort((a, b) => Number(spans[a].size < spans[b].size) - Number(spans[a].size > spans[b].size));
    for (const number of largestFirst) {
      const { size, first, last } = spans[number];
      let step = 16n;
      while (step < size && step < alignment) step *= 2n;
      const met = [...offsets.keys()].filter((other) => spans[other].first <= last && spans[other].last >= first);
      met.sort((a, b) => Number(offsets.get(a) > offsets.get(b)) - Number(offsets.get(a) < offsets.get(b)));
      let best = 0n, room = 0n, free = 0n;
      for (const other of met) {
        const gap = offsets.get(other) - free;
        if (size <= gap && (!room || gap < room)) { best = free; room = gap; }
        const end = ((offsets.get(other) + spans[other].size + step - 1n) / step) * step;
        if (end > free) free = end;
      }
      const offset = room ? best : free;
      offsets.set(number, offset);
      if (offset + size > bytes) bytes = offset + size;
    }
    return { offsets: spans.map((_, number) => offsets.get(number)), bytes };
  }
  return { value, place };
})();
