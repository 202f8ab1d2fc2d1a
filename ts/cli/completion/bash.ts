import { namesOf, type Outline, type Place, type Value, withTheirOwn } from './outline.js'

/** The script for bash. It needs nothing but bash, not even the package bash-completion. */
export function bash({ root, commands }: Outline): string {
  const all = withTheirOwn(commands)
  const places = [{ ...root, name: '' }, ...all]
  return `# Completion of ublk-ts for bash, made by \`ublk-ts completion bash\`.

_ublk_ts_devices() {
  local node
  for node in /sys/class/ublk-char/ublkc*; do
    [[ -e $node ]] || continue
    if [[ $current == /* ]]; then echo "/dev/ublkb\${node##*/ublkc}"; else echo "\${node##*/ublkc}"; fi
  done
  for node in /dev/ublk/*; do
    [[ -L $node ]] || continue
    if [[ $current == /* ]]; then echo "$node"; else echo "\${node##*/}"; fi
  done
}

_ublk_ts() {
  local current=\${COMP_WORDS[COMP_CWORD]} command='' option='' count=0 word
  [[ $current != = ]] || current=''  # readline takes --option=value for three words
  for word in "\${COMP_WORDS[@]:1:COMP_CWORD-1}"; do
    if [[ $word == = ]]; then continue; fi
    if [[ -n $option ]]; then option=''; continue; fi
    if [[ $word != -* ]]; then
      case $command in
        '') command=$word;;
${groups(all)}
        *) ((++count));;
      esac
      case $command in
${aliases(all)}
      esac
      continue
    fi
    case "$command $word" in
      ${takers(places)}) option=$word;;
    esac
  done

  local words='' kind=words
  if [[ -n $option ]]; then
    case "$command $option" in
${values(places)}
    esac
  elif [[ $current == -* ]]; then
    case $command in
${flags(places)}
    esac
  elif [[ -z $command ]]; then
    words=${quote(commands.map(command => command.name).join(' '))}
  else
    case "$command $count" in
${args(all)}
    esac
  fi
  COMPREPLY=()
  case $kind in
    files) compopt -o default;;
    directories) compopt -o dirnames;;
    devices) words=$(_ublk_ts_devices);;&
    *) mapfile -t COMPREPLY < <(compgen -W "$words" -- "$current");;
  esac
}

complete -F _ublk_ts ublk-ts
`
}

function aliases(commands: readonly Place[]): string {
  return lines(
    commands
      .filter(command => command.aliases.length > 0)
      .map(command => `        ${command.aliases.map(quote).join('|')}) command=${quote(command.name)};;`),
  )
}

function groups(commands: readonly Place[]): string {
  const groups = commands.filter(command => command.commands.length > 0)
  return lines(groups.map(({ name }) => `        ${quote(name)}) command="${name} $word";;`))
}

function takers(places: readonly Place[]): string {
  return places
    .flatMap(place =>
      place.flags.flatMap(flag =>
        flag.value ? namesOf(flag).map(name => quote(`${place.name} ${name}`)) : [],
      ),
    )
    .join('|')
}

function values(places: readonly Place[]): string {
  return lines(
    places.flatMap(place =>
      place.flags.flatMap(flag => {
        const names = namesOf(flag).map(name => quote(`${place.name} ${name}`))
        return flag.value ? chosen(names.join('|'), flag.value) : []
      }),
    ),
  )
}

function flags(places: readonly Place[]): string {
  return lines(
    places.map(
      place => `      ${quote(place.name)}) words=${quote(place.flags.flatMap(namesOf).join(' '))};;`,
    ),
  )
}

function args(commands: readonly Place[]): string {
  return lines(
    commands.flatMap(command =>
      command.values.flatMap((value, at) => {
        const last = at === command.values.length - 1
        return chosen(quote(`${command.name} `) + (last && command.repeated ? '*' : at), value)
      }),
    ),
  )
}

function chosen(pattern: string, value: Value): string[] {
  if (value.kind === 'anything') return []
  const choice = value.kind === 'words' ? `words=${quote(value.words.join(' '))}` : `kind=${value.kind}`
  return [`      ${pattern}) ${choice};;`]
}

function lines(all: readonly string[]): string {
  return all.join('\n')
}

function quote(text: string): string {
  return `'${text.replaceAll("'", "'\\''")}'`
}
