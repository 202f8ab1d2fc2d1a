import { readFileSync } from 'node:fs'
import { Ajv2020 } from 'ajv/dist/2020.js'

const schema = JSON.parse(readFileSync(new URL('../../schema/cli.json', import.meta.url), 'utf8'))
const ajv = new Ajv2020({ strict: true, allErrors: true, allowUnionTypes: true, schemas: { cli: schema } })

/** What is wrong with a command's JSON, by its definition in the schema that the package has; empty if nothing is. */
export function faultsOf(text: string, command: string): string {
  const validate = ajv.getSchema(`cli#/$defs/${command}`)
  if (!validate) return `there is no definition ${command}`
  const value = JSON.parse(text)
  if (validate(value)) return unknownIn(value, command).join(', ')
  return ajv.errorsText(validate.errors)
}

/** Fields that the definition does not have: it allows them, for later versions. */
function unknownIn(value: { readonly [field: string]: unknown }, command: string): string[] {
  const of = (name: string): string[] => Object.keys(schema.$defs[name].properties ?? {})
  const extra = Object.keys(value).filter(name => !of(command).includes(name))
  const rows = Object.entries(value).flatMap(([field, rows]) => {
    const row = schema.$defs[command].properties[field]?.items?.$ref?.replace('#/$defs/', '')
    if (row === undefined || !Array.isArray(rows)) return []
    return rows.flatMap(each =>
      Object.keys(each).filter(name => of(row).length > 0 && !of(row).includes(name)),
    )
  })
  return [...extra, ...rows].map(name => `${name} is in no definition`)
}
