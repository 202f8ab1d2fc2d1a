// usage: site/build.mjs OUT
//
// Builds the site into OUT: the pages of contents.mjs, and the reference of the API from the TSDoc. TypeDoc makes all of it,
// so that pages, reference and search are one. It needs site/node_modules, dist (the manual page) and mandoc: scripts/site
// sees to that. Fails when a link leads nowhere.
import { existsSync, mkdirSync, readFileSync, rmSync, statSync, symlinkSync, writeFileSync } from 'node:fs'
import { join, normalize, resolve } from 'node:path'
import { Application, KindRouter, PageEvent } from 'typedoc'
import { PAGES, SECTIONS } from './contents.mjs'
import { manual } from './manual.mjs'

const root = resolve(import.meta.dirname, '..')
const out = resolve(process.argv[2] ?? join(root, 'target/site'))
const REPOSITORY = 'https://github.com/ublk-ts/ublk-ts/blob/main'

/** Names of pages, by their titles. */
const fileOf = new Map()

// The pages get a head that only TypeDoc wants to see, so it reads copies. What they link to is where they expect it.
const stage = `${out}.pages`
rmSync(stage, { recursive: true, force: true })
mkdirSync(join(stage, 'docs'), { recursive: true })
for (const name of ['examples', 'bench', 'ts', '__test__', 'crates', 'system', 'LICENSE']) {
  symlinkSync(join(root, name), join(stage, name))
}
for (const name of ['race.svg', 'picture.svg', 'dashboard.png', 'monitoring', 'files'])
  symlinkSync(join(root, 'docs', name), join(stage, 'docs', name))

for (const page of PAGES)
  writePage(
    page,
    page === 'command-line' ? text => text.replace('<!-- manual -->', () => manual(root)) : text => text,
  )
writeFileSync(join(stage, 'README.md'), linked(read('README.md').replace(/^# .*\n+/, ''), '.'))

/** Writes a page as TypeDoc wants it, with its name in the navigation. */
function writePage(page, change) {
  const text = change(read(`docs/${page}.md`))
  const own = SECTIONS.find(section => section.page === page)
  write(page, own?.name ?? titleOf(text), linked(text, 'docs'))
}
for (const { name, about, pages, also = [] } of SECTIONS) {
  if (!pages) continue
  const list = Object.entries(pages).map(
    ([page, what]) => `- [${titleOf(read(`docs/${page}.md`))}](${page}.md): ${what}`,
  )
  const text = `# ${name}\n\n${about}\n\n${[...list, ...also.map(line => `- ${line}`)].join('\n')}\n`
  write(name.toLowerCase(), name, text, Object.keys(pages))
}

function write(page, title, text, children = []) {
  fileOf.set(title, page)
  const below = children.map(child => `  - ./${child}.md\n`).join('')
  const head = `---\ntitle: ${JSON.stringify(title)}\n${below && `children:\n${below}`}---\n`
  writeFileSync(join(stage, `docs/${page}.md`), head + text.replaceAll(/^<!--[\s\S]*?-->\n/gm, ''))
}

function read(name) {
  return readFileSync(join(root, name), 'utf8')
}

function titleOf(text) {
  return /^# (.*)$/m.exec(text)?.[1].replaceAll('`', '') ?? ''
}

/** A file of the repository that is no page, and nothing to look at, is linked to where it is published. */
function linked(text, dir) {
  return text.replaceAll(/\]\(([^)#:]+)(#[^)]*)?\)/g, (all, path, anchor = '') => {
    const file = normalize(join(dir, path))
    if (!existsSync(join(root, file))) throw new Error(`a link leads nowhere: ${all}`)
    const page = /^docs\/(.*)\.md$/.exec(file)?.[1]
    if (
      page === undefined
        ? file === 'README.md' || !(file.endsWith('.md') || statSync(join(root, file)).isDirectory())
        : PAGES.includes(page)
    )
      return all
    return `](${REPOSITORY}/${file}${anchor})`
  })
}

// What public types are made of, and nobody has to name.
const PARTS = ['With', 'Turn', 'Burst', 'NOT_OF_A_POOL', 'CrashStateBackend', 'Known', 'Described']
const app = await Application.bootstrapWithPlugins({
  entryPoints: [join(root, 'ts/index.ts'), join(root, 'ts/testing/index.ts')],
  tsconfig: join(root, 'ts/tsconfig.json'),
  // `npm run build` has the compiler look.
  skipErrorChecking: true,
  name: 'ublk-ts',
  readme: join(stage, 'README.md'),
  projectDocuments: SECTIONS.map(({ name, page }) => join(stage, `docs/${page ?? name.toLowerCase()}.md`)),
  basePath: stage,
  out,
  router: 'files',
  cleanOutputDir: true,
  disableSources: true,
  excludeInternal: true,
  hideGenerator: true,
  includeHierarchySummary: false,
  githubPages: false,
  sort: ['documents-first', 'alphabetical-ignoring-documents'],
  navigation: { includeGroups: false, includeCategories: false },
  visibilityFilters: {},
  searchInComments: true,
  searchInDocuments: true,
  customCss: join(root, 'site/style.css'),
  highlightLanguages: ['ts', 'js', 'sh', 'console', 'json', 'yaml', 'python', 'go', 'ini', 'docker'],
  lightHighlightTheme: 'light-plus',
  darkHighlightTheme: 'dark-plus',
  intentionallyNotExported: PARTS,
  // Links to files are checked above; those to generated pages are no files.
  validation: { invalidPath: false },
  treatWarningsAsErrors: true,
  treatValidationWarningsAsErrors: true,
  logLevel: 'Warn',
})
/** Pages are named after their files, so that their addresses do not depend on titles. */
class Router extends KindRouter {
  getIdealBaseName(reflection) {
    return reflection.isDocument()
      ? `pages/${fileOf.get(reflection.name)}`
      : super.getIdealBaseName(reflection)
  }
}
app.renderer.defineRouter('files', Router)
// A wide table is scrolled with the keyboard if something in it has the focus, or it can have it itself.
app.renderer.on(PageEvent.END, page => {
  page.contents = page.contents?.replaceAll(/<table>(.*?)<\/table>/gs, (table, rows) =>
    rows.includes('<a ') ? table : `<table tabindex="0">${rows}</table>`,
  )
})
const project = await app.convert()
if (!project) process.exit(1)
app.validate(project)
if (app.logger.hasErrors() || app.logger.hasWarnings()) process.exit(1)
await app.generateOutputs(project)
if (app.logger.hasErrors() || app.logger.hasWarnings()) process.exit(1)
rmSync(stage, { recursive: true })
