/** How a report looks: light and dark, on paper, and without colours, since each fate has a sign and a shape of its own. */
export const STYLE = `
:root{--paper:#fbfaf7;--card:#fff;--ink:#1b1d22;--soft:#5c626d;--line:#dedbd3;--zone:#f3efe4;--saved:#8d97a6;--kept:#1f6fb2;--lost:#c62f1d;--lost-soft:#fbe6e1;--mark:#7a4fb0;--heat-0:#eeebe3;--heat-1:#cfd8e3;--heat-2:#a3b6cc;--heat-3:#7089a8;--heat-4:#3f5878;--focus:#1f6fb2}
@media (prefers-color-scheme:dark){:root{--paper:#14161a;--card:#1b1e24;--ink:#eceae4;--soft:#a2a8b3;--line:#343841;--zone:#22242b;--saved:#7d8796;--kept:#6cb2ee;--lost:#ff7059;--lost-soft:#3b2220;--mark:#bd9aea;--heat-0:#22252c;--heat-1:#33404f;--heat-2:#48607a;--heat-3:#6d8dae;--heat-4:#a9c6e4;--focus:#6cb2ee}}
*{box-sizing:border-box}
html{background:var(--paper);color:var(--ink);font:16px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",sans-serif;-webkit-text-size-adjust:100%}
body{margin:0 auto;max-width:78rem;padding:clamp(1rem,3vw,2.5rem)}
h1{font-size:clamp(1.5rem,1.1rem + 1.8vw,2.3rem);line-height:1.15;letter-spacing:-.015em;margin:.1em 0 .6em;overflow-wrap:anywhere;text-wrap:balance}
h2{font-size:1.15rem;margin:0 0 .4rem;letter-spacing:-.005em}
section{margin-top:2.2rem}
p{margin:.4rem 0;max-width:72ch;overflow-wrap:anywhere}
a{color:inherit;text-decoration-color:var(--soft);text-underline-offset:.18em}
code,td,.axis text,.zone,#detail,dd small{font-variant-numeric:tabular-nums}
code{font:.92em ui-monospace,SFMono-Regular,Menlo,Consolas,"DejaVu Sans Mono",monospace;overflow-wrap:anywhere;background:var(--zone);padding:.1em .35em;border-radius:4px}
[hidden]{display:none!important}
:focus-visible{outline:3px solid var(--focus);outline-offset:2px}
.over{text-transform:uppercase;letter-spacing:.1em;font-size:.75rem;font-weight:600;color:var(--lost);margin:0}
.facts{display:flex;flex-wrap:wrap;gap:.4rem 2rem;margin:0;padding:.7rem 0;border-block:1px solid var(--line)}
.facts div{display:flex;gap:.6rem;align-items:baseline;min-width:0}
dt{color:var(--soft);font-size:.85rem}
dd{margin:0;min-width:0;overflow-wrap:anywhere}
.lead{font-size:1.15rem;line-height:1.5}
.aside{color:var(--soft);font-size:.9rem}
.warn{border-left:4px solid var(--lost);padding:.5rem .9rem;background:var(--lost-soft)}
.two{display:grid;gap:1.4rem 3rem}
@media (min-width:64rem){.two{grid-template-columns:1fr 1fr}}
.two>*{min-width:0}
.losses{list-style:none;margin:.6rem 0;padding:0;display:grid;gap:.5rem;max-width:80ch}
.losses li{display:flex;gap:.7rem;padding:.6rem .8rem;background:var(--lost-soft);border-radius:8px;overflow-wrap:anywhere}
.losses span{min-width:0}
li b,td b{flex:none;display:inline-block;min-width:1.5em;line-height:1.5em;height:1.5em;text-align:center;border-radius:50%;background:var(--lost);color:var(--card);font-size:.85em}
td b{margin-right:.5em}
.tiles{display:grid;grid-template-columns:repeat(4,1fr);gap:.7rem;margin:1.4rem 0 .4rem}
.tiles div{background:var(--card);border:1px solid var(--line);border-top:4px solid var(--c);border-radius:8px;padding:.6rem .9rem .7rem;min-width:0}
.tiles dd{font-size:1.7rem;font-weight:650;line-height:1.2;letter-spacing:-.02em}
.tiles small{display:block;font-size:.8rem;font-weight:400;letter-spacing:0;color:var(--soft)}
.tiles dt:before{content:var(--s)/"";color:var(--c);margin-right:.4em}
@media (max-width:40rem){.tiles{grid-template-columns:repeat(2,1fr)}}
.d{--c:var(--saved);--s:"●"}.k{--c:var(--kept);--s:"○"}.p{--c:var(--lost);--s:"◐"}.l{--c:var(--lost);--s:"✕"}
.legend{display:flex;flex-wrap:wrap;gap:.25rem 1.1rem;font-size:.85rem;max-width:none}
.legend span{display:inline-flex;align-items:center;gap:.4rem}
.key{width:12px;height:12px;overflow:visible;flex:none}
svg text{fill:var(--soft);font-size:12px;font-family:inherit}
.plot{display:grid;grid-template-columns:58px minmax(0,1fr);margin-top:.6rem}
.plot svg{display:block;overflow:visible}
.axis text{text-anchor:end;font-size:11px}
.time{cursor:crosshair}
.time .open{fill:var(--zone)}
.end{text-anchor:end}
.zone{font-size:11.5px}
.cut-name{fill:var(--lost);font-weight:600}
.name{fill:var(--mark);font-weight:600;text-anchor:start;transform:translateX(3px)}
.name.end{transform:translateX(-3px)}
@media (max-width:40rem){.wide{display:none}}
.mark{stroke:var(--mark);stroke-width:1.3;fill:none}
.time .mark{stroke-opacity:.5}
.cut{stroke:var(--lost);stroke-width:3}
.gap{fill:url(#hatch);stroke:none}
#hatch path{stroke:var(--line);stroke-width:3}
#tl path,#tl rect{vector-effect:non-scaling-stroke}
.flush{stroke:var(--soft);stroke-width:1;stroke-dasharray:3 3;fill:none}
path.d,rect.d{fill:var(--saved);stroke:var(--saved);stroke-width:.8}
path.k,rect.k{fill:var(--card);stroke:var(--kept);stroke-width:1.6}
path.p,rect.p{fill:var(--lost-soft);stroke:var(--lost);stroke-width:1.8;stroke-dasharray:3 1.5}
path.l,rect.l{fill:var(--lost);stroke:var(--lost);stroke-width:1.6}
path.k.i{stroke-dasharray:2 2}
.ring{fill:none;stroke:var(--ink);stroke-width:1.6}
.time .tag{fill:var(--ink);font-weight:700;font-size:13px;text-anchor:middle;paint-order:stroke;stroke:var(--paper);stroke-width:4px}
#here{fill:none;stroke:var(--focus);stroke-width:3}
#detail{background:var(--card);border:1px solid var(--line);border-radius:8px;padding:.5rem .8rem;font-size:.9rem;max-width:none;min-height:2.6rem}
.heat{display:block;width:100%;height:auto;margin-top:.6rem;cursor:pointer}
.h0{fill:var(--heat-0)}.h1{fill:var(--heat-1)}.h2{fill:var(--heat-2)}.h3{fill:var(--heat-3)}.h4{fill:var(--heat-4)}
.hl{fill:var(--lost)}
.hx{stroke:var(--card);stroke-width:1.8;fill:none;stroke-linecap:round}
.hb,.ho{stroke:var(--card);stroke-width:6.4;stroke-linecap:round;fill:none}.ho{stroke:var(--kept);stroke-width:3.6}
form{display:flex;flex-wrap:wrap;gap:.6rem 1rem;align-items:center;margin:.8rem 0;font-size:.9rem}
fieldset{border:0;margin:0;padding:0;display:flex;flex-wrap:wrap;gap:.3rem;min-width:0}
legend{float:left;padding:.35rem .4rem .35rem 0;color:var(--soft)}
fieldset label{position:relative;display:inline-block}
fieldset input{position:absolute;inset:0;opacity:0;margin:0;width:100%;height:100%;cursor:pointer}
fieldset span{display:block;padding:.3rem .75rem;border:1px solid var(--line);border-radius:99px;background:var(--card)}
fieldset :checked+span{background:var(--ink);color:var(--paper);border-color:var(--ink)}
fieldset :checked+span:before{content:"✓ "/""}
fieldset :focus-visible+span{outline:3px solid var(--focus);outline-offset:2px}
.at{color:var(--soft);display:inline-flex;gap:.5rem;align-items:center}
.at input,button{font:inherit;color:var(--ink);background:var(--card);border:1px solid var(--line);border-radius:8px;padding:.3rem .6rem;min-width:0}
.at input[aria-invalid=true]{border-color:var(--lost)}
button{cursor:pointer}
output{color:var(--soft)}
.scroll{overflow:auto;max-height:min(70vh,44rem);border:1px solid var(--line);border-radius:8px;background:var(--card)}
table{border-collapse:collapse;width:100%;font-size:.875rem}
caption{position:absolute;width:1px;height:1px;overflow:hidden;clip-path:inset(50%)}
th{position:sticky;top:0;background:var(--card);text-align:left;font-weight:600;box-shadow:inset 0 -1px var(--line);z-index:1}
th,td{padding:.28rem .7rem;white-space:nowrap;vertical-align:baseline}
@media (max-width:40rem){th,td{padding-inline:.45rem}}
td:nth-child(1),tr td:nth-child(4):not([colspan]),td:nth-child(5),td:last-child:nth-child(n+3),.n{text-align:right}
tbody tr:nth-child(even){background:color-mix(in srgb,var(--zone) 45%,transparent)}
td:nth-child(1){color:var(--soft)}
tr.d td:nth-child(2):before,tr.k td:nth-child(2):before,tr.p td:nth-child(2):before,tr.l td:nth-child(2):before{content:var(--s)/"";color:var(--c);display:inline-block;width:1.4em}
tr.l td:nth-child(2),tr.p td:nth-child(2){color:var(--lost);font-weight:600}
tbody tr.s{background:var(--lost-soft);box-shadow:inset 4px 0 var(--lost)}
tr.m td,tr.m bdi{color:var(--mark);font-weight:600;white-space:normal;overflow-wrap:anywhere}
tr.f td{color:var(--soft);border-bottom:1px dashed var(--soft)}
tr.g td{color:var(--soft);text-align:center;font-style:italic;background:repeating-linear-gradient(45deg,transparent 0 4px,var(--zone) 4px 7px);white-space:normal}
tr.c td{color:var(--lost);font-weight:600;border-top:3px solid var(--lost)}
tr:target,tbody tr:focus{outline:3px solid var(--focus);outline-offset:-3px}
tbody tr{scroll-margin:2.4rem 0 .4rem}
i{font-style:normal;font-size:.72em;font-weight:600;letter-spacing:.04em;border:1px solid currentColor;border-radius:4px;padding:.05em .35em;color:var(--soft)}
.words dl{display:grid;gap:.5rem;margin:0;max-width:80ch}
.words div{display:grid;grid-template-columns:5.5rem minmax(0,1fr);gap:.8rem}
.words dt{font-weight:600;color:var(--ink)}
.words dd{color:var(--soft);font-size:.9rem}
@media print{html{background:#fff;font-size:11pt}body{max-width:none;padding:0}.scroll{max-height:none;overflow:visible;border:0}form,#detail,#cell{display:none}th{position:static}section{break-inside:auto}.plot,.heat,.losses li,.tiles,tr{break-inside:avoid}*{print-color-adjust:exact;-webkit-print-color-adjust:exact}table{font-size:8pt}}
@media (forced-colors:active){.time,.heat,.key{forced-color-adjust:none;background:var(--paper)}}
`
