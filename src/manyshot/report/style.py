"""How a page looks, light and dark. Colours of figures are variables too: see `script.py`.

`--c0` to `--c7` are the palette of Okabe and Ito (2008), which the colour-blind tell apart, without
its black; in the dark its blues are lighter.
"""

CSS = """
:root {
  color-scheme: light dark;
  --page: #faf9f6; --card: #ffffff; --ink: #1b1d21; --soft: #5b6069; --line: #e0ddd5;
  --dot: #8a9099; --accent: #0066a1; --warn: #b34700; --warn-page: #fff3e6;
  --c0: #0072b2; --c1: #e69f00; --c2: #009e73; --c3: #cc79a7;
  --c4: #d55e00; --c5: #56b4e9; --c6: #d8c900; --c7: #7a7f87;
}
@media (prefers-color-scheme: dark) {
  :root {
    --page: #121418; --card: #1a1d23; --ink: #e9e7e2; --soft: #a4a9b1; --line: #30353d;
    --dot: #7d848e; --accent: #7cc0ee; --warn: #ffb066; --warn-page: #33240f;
    --c0: #3b9bdc; --c1: #e69f00; --c2: #12b88a; --c3: #d990ba;
    --c4: #ea7420; --c5: #93d2f7; --c6: #f0e442; --c7: #9aa0a8;
  }
}
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; scroll-behavior: smooth; }
body {
  margin: 0; background: var(--page); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif;
}
main { max-width: 66rem; margin: 0 auto; padding: 2rem 1.25rem 4rem; }
h1 { font-size: clamp(1.7rem, 5vw, 2.4rem); line-height: 1.15; margin: .1rem 0 .8rem; }
h2 { font-size: 1.35rem; margin: 3rem 0 .6rem; padding-top: 1.2rem;
     border-top: 1px solid var(--line); }
h3 { font-size: 1.12rem; margin: 2rem 0 .5rem; }
p.title { font-weight: 600; margin: 0 0 .25rem; max-width: none; }
h1, h2, h3, p, li, td, figcaption { overflow-wrap: anywhere; }
p { margin: .5rem 0 .9rem; max-width: 46rem; }
a { color: var(--accent); text-underline-offset: .15em; }
code, pre { font-family: ui-monospace, SFMono-Regular, Menlo, Consolas, monospace;
            font-size: .9em; }
.kind { color: var(--soft); margin: 0; letter-spacing: .06em; text-transform: uppercase;
        font-size: .78rem; }
.lead { font-size: 1.13rem; }
.note, figcaption { color: var(--soft); font-size: .9rem; }
.warning { background: var(--warn-page); color: var(--warn); border-left: 4px solid var(--warn);
           padding: .6rem .9rem; border-radius: 0 .4rem .4rem 0; max-width: none; }
nav ul { display: flex; flex-wrap: wrap; gap: .3rem 1.1rem; list-style: none; padding: 0;
         margin: 1.2rem 0 0; font-size: .95rem; }
figure { margin: 1rem 0; padding: .9rem 1rem; background: var(--card);
         border: 1px solid var(--line); border-radius: .6rem; min-width: 0; }
figcaption { margin-top: .3rem; }
.drawing { width: 100%; min-width: 0; overflow: hidden; }
.grid { display: grid; gap: 1rem; margin: 1rem 0;
        grid-template-columns: repeat(auto-fit, minmax(min(100%, 19rem), 1fr)); }
.grid > figure { margin: 0; }
.scroll { overflow-x: auto; margin: .8rem 0; border: 1px solid var(--line); border-radius: .6rem;
          background: var(--card); }
table { border-collapse: collapse; width: 100%; font-size: .92rem; }
th, td { padding: .45rem .8rem; text-align: left; vertical-align: top;
         border-bottom: 1px solid var(--line); overflow-wrap: normal; }
th { color: var(--soft); font-weight: 600; white-space: nowrap; }
tbody tr:last-child td { border-bottom: 0; }
td.number, th.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
td code { white-space: nowrap; }
td:first-child { min-width: 8.5rem; }
details { margin: .8rem 0; } summary { cursor: pointer; color: var(--accent); }
pre { overflow-x: auto; padding: .9rem 1rem; background: var(--card); line-height: 1.45;
      border: 1px solid var(--line); border-radius: .6rem; }
.together { white-space: nowrap; }
svg.picture { width: 100%; height: auto; display: block; margin: .4rem auto 0;
              font-size: 12.5px; }
svg.picture text { fill: var(--ink); } svg.picture text.soft { fill: var(--soft); }
svg.picture .wire { stroke: var(--line); stroke-width: 2; }
svg.picture .end { fill: var(--page); stroke: var(--line); }
svg.picture .block { fill-opacity: .28; stroke-width: 1.5; }
svg.picture .hollow { fill: none; stroke: var(--line); stroke-dasharray: 4 3; }
footer { margin-top: 3rem; color: var(--soft); font-size: .85rem; }
@media (max-width: 40rem) {
  main { padding: 1.2rem .8rem 3rem; }
  figure { padding: .7rem .6rem; }
  th, td { padding: .4rem .55rem; }
}
"""
