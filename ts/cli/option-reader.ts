import { InvalidArgumentError } from 'commander'
import { inOneLine } from '../user-values.js'

/** Converts errors of an option's parser to commander's, which name the option and the value. */
export function reading<Value>(parse: (text: string) => Value): (text: string) => Value {
  return text => {
    try {
      return parse(text)
    } catch (error) {
      throw new InvalidArgumentError(inOneLine(error))
    }
  }
}
