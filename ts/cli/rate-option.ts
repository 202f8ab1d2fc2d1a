import { Option } from 'commander'
import { parseSize } from '../size.js'
import { reading } from './option-reader.js'

/** `--rate`, of a command that copies while the disk is used. `of`: what its help begins with. */
export function rateOption(of = ''): Option {
  return new Option(
    '--rate <size>',
    `${of}copy at most this much per second, such as 50M (default: no limit)`,
  ).argParser(reading(text => parseSize(text, 'rate')))
}
