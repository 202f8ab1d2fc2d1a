import { type Flag, namesOf, type Outline, type Place, type Value, withTheirOwn, wordOf } from './outline.js'

/** The script for fish. */
export function fish({ root, commands }: Outline): string {
  const all = withTheirOwn(commands)
  const places = [{ ...root, name: '' }, ...all]
  return `# Completion of ublk-ts for fish, made by \`ublk-ts completion fish\`.

# Whether the cursor is in this command ('' before there is one) and, if a number is given, after that many arguments.
function __ublk_ts_in -a wanted arguments
    set -l command ''
    set -l option ''
    set -l count 0
    for word in (commandline -opc)[2..-1]
        if test -n "$option"
            set option ''
            continue
        end
        switch "$command $word"
            case ${takers(places)}
                set option $word
            case '* -*'
            case ' *'
                set command $word
            case '*'
                switch $command
${groups(all)}
                    case '*'
                        set count (math $count + 1)
                end
        end
        switch $command
${aliases(all)}
        end
    end
    test "$command" = "$wanted"; and begin
        test -z "$arguments"; or test $count -eq $arguments
    end
end

function __ublk_ts_devices
    for node in /sys/class/ublk-char/ublkc*
        set -l id (string replace -r '.*ublkc' '' $node)
        if string match -q '/*' -- (commandline -ct)
            echo /dev/ublkb$id
        else
            echo $id
        end
    end
    for node in /dev/ublk/*
        if string match -q '/*' -- (commandline -ct)
            echo $node
        else
            string replace -r '.*/' '' $node
        end
    end
end

complete -c ublk-ts -f
${[
  ...names('', commands),
  ...all.flatMap(({ name, commands }) => names(name, commands)),
  ...places.flatMap(place => place.flags.map(flag => `${at(place.name)} ${named(flag)}`)),
  ...all.flatMap(args),
].join('\n')}
`
}

function takers(places: readonly Place[]): string {
  return places
    .flatMap(place =>
      place.flags.flatMap(flag =>
        flag.value ? namesOf(flag).map(name => quote(`${place.name} ${name}`)) : [],
      ),
    )
    .join(' ')
}

function aliases(commands: readonly Place[]): string {
  return commands
    .filter(command => command.aliases.length > 0)
    .map(
      command =>
        `            case ${command.aliases.map(quote).join(' ')}\n                set command ${quote(command.name)}`,
    )
    .join('\n')
}

function groups(commands: readonly Place[]): string {
  return commands
    .filter(command => command.commands.length > 0)
    .map(
      ({ name }) =>
        `                    case ${quote(name)}\n                        set command "$command $word"`,
    )
    .join('\n')
}

function at(command: string, count?: number): string {
  const condition = `__ublk_ts_in "${command}"${count === undefined ? '' : ` ${count}`}`
  return `complete -c ublk-ts -n '${condition}'`
}

function named({ short, long, summary, value }: Flag): string {
  const names = [short && `-s ${short.slice(1)}`, long && `-l ${long.slice(2)}`].filter(Boolean)
  return [...names, ...(value ? [argument(value)] : []), `-d ${quote(summary)}`].join(' ')
}

function names(before: string, commands: readonly Place[]): string[] {
  return commands.map(({ name, summary }) => `${at(before)} -a ${wordOf(name)} -d ${quote(summary)}`)
}

function args(command: Place): string[] {
  if (command.commands.length > 0) return []
  return command.values.flatMap((value, place) => {
    if (value.kind === 'anything') return []
    const repeated = command.repeated && place === command.values.length - 1
    return [`${at(command.name, repeated ? undefined : place)} ${argument(value).replace('-r ', '')}`]
  })
}

function argument(value: Value): string {
  switch (value.kind) {
    case 'words':
      return `-r -f -a ${quote(value.words.join(' '))}`
    case 'files':
      return '-r -F'
    case 'directories':
      return "-r -f -a '(__fish_complete_directories)'"
    case 'devices':
      return "-r -f -a '(__ublk_ts_devices)'"
    case 'anything':
      return '-x'
  }
}

function quote(text: string): string {
  return `'${text.replaceAll(/[\\']/g, '\\$&')}'`
}
