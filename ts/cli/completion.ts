import { Argument, type Command } from 'commander'
import { bash } from './completion/bash.js'
import { fish } from './completion/fish.js'
import { type Outline, outline } from './completion/outline.js'
import { zsh } from './completion/zsh.js'
import { print } from './output.js'

type Shell = 'bash' | 'zsh' | 'fish'

const scripts: Record<Shell, (known: Outline) => string> = { bash, zsh, fish }

const HELP = `
The script is self-contained: completion does not start ublk-ts. Generate it again after an update.

Shells look for it in:
  bash  ~/.local/share/bash-completion/completions/ublk-ts
        /usr/share/bash-completion/completions/ublk-ts
  zsh   /usr/local/share/zsh/site-functions/_ublk-ts, or _ublk-ts in another directory of $fpath
  fish  ~/.config/fish/completions/ublk-ts.fish
        /usr/share/fish/vendor_completions.d/ublk-ts.fish

Examples:
  source <(ublk-ts completion bash)
  ublk-ts completion zsh >/usr/local/share/zsh/site-functions/_ublk-ts
  ublk-ts completion fish >~/.config/fish/completions/ublk-ts.fish`

/** Adds `ublk-ts completion`. */
export function addCompletion(program: Command): void {
  program
    .command('completion')
    .description("print a shell's completion script for ublk-ts")
    .addArgument(new Argument('<shell>', 'the shell').choices(Object.keys(scripts)))
    .addHelpText('after', HELP)
    .action(async (shell: Shell) => {
      const { buildProgram } = await import('./program.js') // It knows all commands, not only this one.
      await print(scripts[shell](outline(await buildProgram())))
    })
}
