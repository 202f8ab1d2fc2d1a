import { InvalidArgumentError } from 'commander'
import { inOneLine } from '../user-values.js'

/** Makes what reads an option's value fail as commander wants it: it names the option and the value. */
export function reading<Value>(parse: (text: string) => Value): (text: string) => Value {
  return text => {
    try {
      return parse(text)
    } catch (error) {
      throw new InvalidArgumentError(inOneLine(error))
    }
  }
}
